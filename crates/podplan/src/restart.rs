//! Whether an ended container starts again: the pod's restart policy, a container's own policy and rules.
//!
//! Rules (`restartPolicyRules`) are tried in order, the first that matches the exit code decides; then the
//! container's `restartPolicy`, then the pod's.

use k8s_openapi::api::core::v1::{Container, ContainerRestartRule, Pod};

use crate::spec::{self, Role};

/// When an ended container starts again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// Always.
    Always,
    /// After a failure.
    OnFailure,
    /// Never.
    Never,
}

impl Policy {
    fn parse(s: Option<&str>) -> Option<Self> {
        match s {
            Some("Always") => Some(Self::Always),
            Some("OnFailure") => Some(Self::OnFailure),
            Some("Never") => Some(Self::Never),
            _ => None,
        }
    }

    /// The pod's policy.
    #[must_use]
    pub fn of_pod(pod: &Pod) -> Self {
        Self::parse(spec::of(pod).restart_policy.as_deref()).unwrap_or(Self::Always)
    }

    /// The policy of one container, before its rules.
    #[must_use]
    pub fn of_container(pod: &Pod, role: Role, c: &Container) -> Self {
        match role {
            Role::Sidecar => Self::Always,
            Role::Ephemeral => Self::Never,
            // An init container that succeeded is done under every policy.
            Role::Init => match Self::parse(c.restart_policy.as_deref()).unwrap_or(Self::of_pod(pod)) {
                Self::Never => Self::Never,
                _ => Self::OnFailure,
            },
            Role::Main => Self::parse(c.restart_policy.as_deref()).unwrap_or(Self::of_pod(pod)),
        }
    }
}

/// Whether a container that ended with `exit_code` starts again.
#[must_use]
pub fn again(pod: &Pod, role: Role, c: &Container, exit_code: i32) -> bool {
    if role == Role::Init && exit_code == 0 {
        return false;
    }
    if role != Role::Ephemeral
        && let Some(rules) = &c.restart_policy_rules
        && let Some(rule) = rules.iter().find(|r| matches(r, exit_code))
    {
        // `RestartAllContainers` restarts this one as well; an unknown action of a newer API decides nothing.
        return matches!(rule.action.as_str(), "Restart" | "RestartAllContainers");
    }
    match Policy::of_container(pod, role, c) {
        Policy::Always => true,
        Policy::OnFailure => exit_code != 0,
        Policy::Never => false,
    }
}

/// Whether a container that the kubelet itself kills (a probe failed, its definition changed) starts again.
#[must_use]
pub fn after_kill(pod: &Pod, role: Role, c: &Container) -> bool {
    Policy::of_container(pod, role, c) != Policy::Never
}

fn matches(rule: &ContainerRestartRule, exit_code: i32) -> bool {
    let Some(on) = &rule.exit_codes else { return false };
    let listed = on.values.as_ref().is_some_and(|v| v.contains(&exit_code));
    match on.operator.as_str() {
        "In" => listed,
        "NotIn" => !listed,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::{ContainerRestartRuleOnExitCodes, PodSpec};

    fn pod(policy: &str) -> Pod {
        Pod {
            spec: Some(PodSpec { restart_policy: Some(policy.into()), ..PodSpec::default() }),
            ..Pod::default()
        }
    }

    #[test]
    fn policies() {
        let c = Container::default();
        for (policy, role, code, want) in [
            ("Always", Role::Main, 0, true),
            ("OnFailure", Role::Main, 0, false),
            ("OnFailure", Role::Main, 1, true),
            ("Never", Role::Main, 1, false),
            ("Always", Role::Init, 0, false),
            ("Always", Role::Init, 1, true),
            ("Never", Role::Init, 1, false),
            ("Never", Role::Sidecar, 0, true),
            ("Always", Role::Ephemeral, 1, false),
        ] {
            assert_eq!(again(&pod(policy), role, &c, code), want, "{policy} {role:?} {code}");
        }
    }

    #[test]
    fn first_matching_rule_decides() {
        let rule = |operator: &str, values: &[i32]| ContainerRestartRule {
            action: "Restart".into(),
            exit_codes: Some(ContainerRestartRuleOnExitCodes {
                operator: operator.into(),
                values: Some(values.to_vec()),
            }),
        };
        let mut c = Container { restart_policy: Some("Never".into()), ..Container::default() };
        c.restart_policy_rules = Some(vec![rule("In", &[42])]);
        assert!(again(&pod("Always"), Role::Main, &c, 42));
        assert!(!again(&pod("Always"), Role::Main, &c, 1));
        c.restart_policy_rules = Some(vec![rule("NotIn", &[0, 1])]);
        assert!(again(&pod("Never"), Role::Main, &c, 42));
        assert!(!again(&pod("Never"), Role::Main, &c, 1));
    }
}
