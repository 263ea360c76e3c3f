//! Probes and lifecycle hooks.

use isopod_api::names;

use crate::kinds::check::At;

/// Validates what a probe or a hook does.
pub(super) fn handler(handler: &At<'_>, grace_seconds: i64) {
    let mut handlers = 0;
    for kind in ["exec", "httpGet", "tcpSocket", "grpc", "sleep"] {
        let action = handler.field(kind);
        if !action.is_set() {
            continue;
        }
        handlers += 1;
        if handlers > 1 {
            action.forbidden("may not specify more than 1 handler type");
            continue;
        }
        match kind {
            "exec" if action.field("command").is_empty() => action.field("command").required(""),
            "exec" => {}
            "httpGet" => http_get(&action),
            "sleep" => sleep(&action, grace_seconds),
            _ => port_or_name(&action.field("port")),
        }
    }
    if handlers == 0 {
        handler.required("must specify a handler type");
    }
}

fn http_get(action: &At<'_>) {
    action.field("path").needs_text();
    port_or_name(&action.field("port"));
    action.field("scheme").one_of(&["HTTP", "HTTPS"]);
    let headers = action.field("httpHeaders");
    for header in headers.items() {
        let name = header.field("name").str();
        names::is_http_header_name(name).into_iter().for_each(|message| headers.invalid_as(name, message));
    }
}

fn sleep(action: &At<'_>, grace_seconds: i64) {
    let seconds = action.field("seconds").int().unwrap_or(0);
    if !(0..=grace_seconds).contains(&seconds) {
        let detail =
            format!("must be non-negative and less than terminationGracePeriodSeconds ({grace_seconds})");
        action.invalid_as(seconds, detail);
    }
}

/// A port by number or by name.
pub(in crate::kinds) fn port_or_name(port: &At<'_>) {
    match port.int() {
        Some(number) => names::is_port_number(number).into_iter().for_each(|m| port.invalid(m)),
        None => port.must_follow(names::is_port_name),
    }
}

/// Validates a probe.
pub(super) fn probe(probe: &At<'_>, kind: &str, grace_seconds: i64) {
    handler(probe, grace_seconds);
    for field in
        ["initialDelaySeconds", "timeoutSeconds", "periodSeconds", "successThreshold", "failureThreshold"]
    {
        probe.field(field).not_negative();
    }
    let grace = probe.field("terminationGracePeriodSeconds");
    if grace.int().is_some_and(|g| g <= 0) {
        grace.invalid("must be greater than 0");
    }
    if kind == "readinessProbe" {
        if grace.is_set() {
            grace.invalid("must not be set for readinessProbes");
        }
    } else if probe.field("successThreshold").int().is_some_and(|n| n != 1) {
        probe.field("successThreshold").invalid("must be 1");
    }
}
