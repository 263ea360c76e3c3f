//! The form of an event: `audit.k8s.io/v1` `Event`, a line of JSON, or upstream's older line of text.

use std::collections::BTreeMap;

use isopod_api::Value;
use isopod_api::identity::UserInfo;
use serde::Serialize;

/// A user, as events show it.
#[derive(Debug, Clone, Default, Serialize)]
pub(super) struct User {
    #[serde(skip_serializing_if = "String::is_empty")]
    pub username: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub uid: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub extra: BTreeMap<String, Vec<String>>,
}

impl From<&UserInfo> for User {
    fn from(user: &UserInfo) -> User {
        User {
            username: user.name.clone(),
            uid: user.uid.clone(),
            groups: user.groups.clone(),
            extra: user.extra.clone(),
        }
    }
}

/// The object a request is about.
#[derive(Debug, Clone, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ObjectReference {
    #[serde(skip_serializing_if = "String::is_empty")]
    pub resource: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub namespace: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub uid: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub api_group: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub api_version: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub resource_version: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub subresource: String,
}

/// One event.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Event<'a> {
    pub kind: &'static str,
    pub api_version: &'static str,
    pub level: &'static str,
    #[serde(rename = "auditID")]
    pub audit_id: &'a str,
    pub stage: &'static str,
    #[serde(rename = "requestURI")]
    pub request_uri: &'a str,
    pub verb: &'a str,
    pub user: &'a User,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub impersonated_user: Option<&'a User>,
    #[serde(rename = "sourceIPs", skip_serializing_if = "<[String]>::is_empty")]
    pub source_ips: &'a [String],
    #[serde(skip_serializing_if = "str::is_empty")]
    pub user_agent: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub object_ref: Option<&'a ObjectReference>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub response_status: Option<&'a Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_object: Option<&'a Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub response_object: Option<&'a Value>,
    pub request_received_timestamp: String,
    pub stage_timestamp: String,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: &'a BTreeMap<&'static str, String>,
}

/// A time with microseconds, as `metav1.MicroTime`.
pub(super) fn micro_time(time: jiff::Timestamp) -> String {
    format!("{time:.6}")
}

fn quoted(list: &[String]) -> String {
    let items: Vec<String> = list.iter().map(|item| format!("{item:?}")).collect();
    items.join(",")
}

impl Event<'_> {
    /// The event as a line of JSON.
    pub(super) fn json(&self) -> Vec<u8> {
        let mut line = Vec::with_capacity(1024);
        // Strings, maps with text as keys and JSON values: nothing that cannot be written.
        serde_json::to_writer(&mut line, self).expect("events serialise");
        line.push(b'\n');
        line
    }

    /// The event as upstream's `legacy` format writes it.
    pub(super) fn legacy(&self) -> Vec<u8> {
        let or = |text: &str, other: &str| if text.is_empty() { other.to_owned() } else { text.to_owned() };
        let user = or(&self.user.username, "<none>");
        let groups = or(&quoted(&self.user.groups), "<none>");
        let (as_user, as_groups) = match self.impersonated_user {
            Some(user) => (user.username.clone(), or(&quoted(&user.groups), "<lookup>")),
            None => ("<self>".to_owned(), "<lookup>".to_owned()),
        };
        let namespace = or(self.object_ref.map_or("", |o| &o.namespace), "<none>");
        let code = self.response_status.and_then(|s| s["code"].as_u64());
        let response = code.map_or_else(|| "<deferred>".to_owned(), |code| code.to_string());
        let ip = self.source_ips.first().map_or("<unknown>", String::as_str);
        format!(
            "{} AUDIT: id={:?} stage={:?} ip={ip:?} method={:?} user={user:?} groups={groups:?} as={as_user:?} asgroups={as_groups:?} user-agent={:?} namespace={namespace:?} uri={:?} response=\"{response}\"\n",
            self.request_received_timestamp,
            self.audit_id,
            self.stage,
            self.verb,
            self.user_agent,
            self.request_uri,
        )
        .into_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms() {
        let user = User { username: "jane".into(), groups: vec!["a".into(), "b".into()], ..User::default() };
        let object =
            ObjectReference { resource: "pods".into(), namespace: "ns".into(), ..Default::default() };
        let status = serde_json::json!({"metadata": {}, "code": 200});
        let time = micro_time("2026-01-02T03:04:05.678901234Z".parse().expect("a time"));
        let none = BTreeMap::new();
        let event = Event {
            kind: "Event",
            api_version: "audit.k8s.io/v1",
            level: "Metadata",
            audit_id: "1",
            stage: "ResponseComplete",
            request_uri: "/api/v1/pods?a=\"b\"",
            verb: "list",
            user: &user,
            impersonated_user: None,
            source_ips: &["10.0.0.1".to_owned()],
            user_agent: "kubectl",
            object_ref: Some(&object),
            response_status: Some(&status),
            request_object: None,
            response_object: None,
            request_received_timestamp: time.clone(),
            stage_timestamp: time,
            annotations: &none,
        };
        assert_eq!(
            String::from_utf8(event.json()).expect("text"),
            concat!(
                r#"{"kind":"Event","apiVersion":"audit.k8s.io/v1","level":"Metadata","auditID":"1","#,
                r#""stage":"ResponseComplete","requestURI":"/api/v1/pods?a=\"b\"","verb":"list","#,
                r#""user":{"username":"jane","groups":["a","b"]},"sourceIPs":["10.0.0.1"],"userAgent":"kubectl","#,
                r#""objectRef":{"resource":"pods","namespace":"ns"},"responseStatus":{"code":200,"metadata":{}},"#,
                r#""requestReceivedTimestamp":"2026-01-02T03:04:05.678901Z","stageTimestamp":"2026-01-02T03:04:05.678901Z"}"#,
                "\n"
            )
        );
        let legacy = String::from_utf8(event.legacy()).expect("text");
        assert_eq!(
            legacy,
            concat!(
                r#"2026-01-02T03:04:05.678901Z AUDIT: id="1" stage="ResponseComplete" ip="10.0.0.1" method="list" "#,
                r#"user="jane" groups="\"a\",\"b\"" as="<self>" asgroups="<lookup>" user-agent="kubectl" "#,
                r#"namespace="ns" uri="/api/v1/pods?a=\"b\"" response="200""#,
                "\n"
            )
        );
    }
}
