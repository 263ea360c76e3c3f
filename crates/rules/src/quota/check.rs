//! Whether a quota has room for a change, and its status when the change is made.

use isopod_api::Value;

use super::{Amounts, add, amounts, counted_resource, matches_scopes, pods, subtract, to_value, usage};

/// Why there is no room; the texts are upstream's.
pub type Refusal = String;

/// The quota's new status when `new` takes the place of `old` (`Null`: a new object), or `None` when the quota has
/// nothing to do with the change. To be stored only if nobody else changed the quota meanwhile.
///
/// # Errors
/// When there is no room, what there is was not counted yet, or the pod does not say what it needs.
pub fn reserve(
    quota: &Value,
    group: &str,
    resource: &str,
    new: &Value,
    old: &Value,
) -> Result<Option<Value>, Refusal> {
    let (spec, name) = (&quota["spec"], quota["metadata"]["name"].as_str().unwrap_or(""));
    let mut limited = amounts(&spec["hard"]);
    limited.retain(|name, _| counted_resource(name) == Some((group, resource)));
    if limited.is_empty() || !matches_scopes(spec, group, resource, new) {
        return Ok(None);
    }
    if (group, resource) == ("", "pods") {
        pods::must_specify(new, &limited).map_err(|why| format!("failed quota: {name}: {why}"))?;
    }
    let counted_before = !old.is_null() && matches_scopes(spec, group, resource, old);
    let before = if counted_before { usage(group, resource, old) } else { Amounts::new() };
    let mut more = subtract(&usage(group, resource, new), &before);
    more.retain(|name, amount| limited.contains_key(name) && amount.signum() != 0);
    if more.values().all(|amount| amount.signum() < 0) {
        // What becomes free is counted by the controller; nothing depends on it at once.
        return Ok(None);
    }
    let (hard, used) = (amounts(&quota["status"]["hard"]), amounts(&quota["status"]["used"]));
    let uncounted: Vec<&str> = more
        .iter()
        .filter(|(name, amount)| {
            amount.signum() > 0 && (!hard.contains_key(*name) || !used.contains_key(*name))
        })
        .map(|(name, _)| name.as_str())
        .collect();
    if !uncounted.is_empty() {
        return Err(format!("status unknown for quota: {name}, resources: {}", uncounted.join(",")));
    }
    let mut after = used.clone();
    add(&mut after, &more);
    let exceeded: Vec<String> = more
        .iter()
        .filter(|(name, amount)| amount.signum() > 0 && after[*name] > hard[*name])
        .map(|(name, _)| name.clone())
        .collect();
    if !exceeded.is_empty() {
        let only = |amounts: &Amounts| -> Amounts {
            amounts.iter().filter(|(name, _)| exceeded.contains(name)).map(|(n, a)| (n.clone(), *a)).collect()
        };
        return Err(format!(
            "exceeded quota: {name}, requested: {}, used: {}, limited: {}",
            pretty(&only(&more)),
            pretty(&only(&used)),
            pretty(&only(&hard))
        ));
    }
    let mut status = quota["status"].clone();
    status["used"] = to_value(&after);
    Ok(Some(status))
}

/// The quota's status when a change that was reserved for did not happen, as far as it can be told from now.
pub fn unreserve(quota: &Value, group: &str, resource: &str, new: &Value, old: &Value) -> Option<Value> {
    let spec = &quota["spec"];
    if !matches_scopes(spec, group, resource, new) {
        return None;
    }
    let counted_before = !old.is_null() && matches_scopes(spec, group, resource, old);
    let before = if counted_before { usage(group, resource, old) } else { Amounts::new() };
    let less = subtract(&usage(group, resource, new), &before);
    let mut used = amounts(&quota["status"]["used"]);
    for (name, amount) in &mut used {
        if let Some(less) = less.get(name).filter(|less| less.signum() > 0) {
            let rest = amount.sub(*less);
            *amount = if rest.signum() < 0 { Default::default() } else { rest };
        }
    }
    let mut status = quota["status"].clone();
    status["used"] = to_value(&used);
    (status != quota["status"]).then_some(status)
}

/// `cpu=1,pods=2`.
pub(super) fn pretty(amounts: &Amounts) -> String {
    let parts: Vec<String> = amounts.iter().map(|(name, amount)| format!("{name}={amount}")).collect();
    parts.join(",")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn quota(hard: Value, used: Value) -> Value {
        json!({"metadata": {"name": "q"}, "spec": {"hard": hard}, "status": {"hard": hard, "used": used}})
    }

    fn pod(cpu: Option<&str>) -> Value {
        let requests = cpu.map(|cpu| json!({"cpu": cpu})).unwrap_or_default();
        json!({"spec": {"containers": [{"name": "a", "resources": {"requests": requests}}]}})
    }

    fn verdict(quota: &Value, new: &Value, old: &Value) -> String {
        match reserve(quota, "", "pods", new, old) {
            Ok(None) => "unconcerned".into(),
            Ok(Some(status)) => pretty(&amounts(&status["used"])),
            Err(why) => why,
        }
    }

    #[test]
    fn room() {
        let quota =
            quota(json!({"requests.cpu": "2", "pods": "3"}), json!({"requests.cpu": "500m", "pods": "1"}));
        assert_eq!(verdict(&quota, &pod(Some("1")), &Value::Null), "pods=2,requests.cpu=1500m");
        assert_eq!(
            verdict(&quota, &pod(Some("1600m")), &Value::Null),
            "exceeded quota: q, requested: requests.cpu=1600m, used: requests.cpu=500m, limited: requests.cpu=2"
        );
        assert_eq!(
            verdict(&quota, &pod(None), &Value::Null),
            "failed quota: q: must specify requests.cpu for: a"
        );
        assert_eq!(verdict(&quota, &pod(Some("1")), &pod(Some("500m"))), "pods=1,requests.cpu=1");
        assert_eq!(verdict(&quota, &pod(Some("1")), &pod(Some("1"))), "unconcerned");
    }

    #[test]
    fn not_counted_yet_and_others() {
        let mut fresh = quota(json!({"pods": "3"}), json!({}));
        fresh["status"] = json!({});
        assert_eq!(verdict(&fresh, &pod(None), &Value::Null), "status unknown for quota: q, resources: pods");
        assert_eq!(
            verdict(&quota(json!({"secrets": "1"}), json!({})), &pod(None), &Value::Null),
            "unconcerned"
        );
    }

    #[test]
    fn what_was_reserved_comes_back() {
        let quota =
            quota(json!({"requests.cpu": "2", "pods": "3"}), json!({"requests.cpu": "500m", "pods": "1"}));
        let mut reserved = quota.clone();
        reserved["status"] = reserve(&quota, "", "pods", &pod(Some("1")), &Value::Null).unwrap().unwrap();
        let back = unreserve(&reserved, "", "pods", &pod(Some("1")), &Value::Null).unwrap();
        assert_eq!(pretty(&amounts(&back["used"])), "pods=1,requests.cpu=500m");
    }
}
