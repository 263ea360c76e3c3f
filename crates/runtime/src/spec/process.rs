//! The process: command, environment, user, capabilities, limits.

use isopod_cri::v1::{LinuxContainerSecurityContext, SupplementalGroupsPolicy};
use serde_json::{Value, json};

use super::{Input, security as rights};
use crate::Error;

const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

pub(super) fn process(input: &Input<'_>, security: &LinuxContainerSecurityContext) -> Result<Value, Error> {
    let (container, image) = (input.container, input.image);
    let cwd = [&container.working_dir, &image.working_dir].into_iter().find(|dir| !dir.is_empty());
    let mut process = json!({
        "terminal": container.tty,
        "args": args(&container.command, &container.args, &image.entrypoint, &image.cmd)?,
        "env": environment(input),
        "cwd": cwd.map_or("/", String::as_str),
        "user": {
            "uid": input.user.uid,
            "gid": input.user.gid,
            "additionalGids": groups(input, security)?,
            "umask": 0o022,
        },
        "capabilities": rights::capabilities(security, input.node)?,
    });
    // Present means true to the built-in runtime.
    if security.no_new_privs && !security.privileged {
        process["noNewPrivileges"] = json!(true);
    }
    let resources = container.linux.as_ref().and_then(|linux| linux.resources.as_ref());
    let score = resources.map_or(0, |resources| resources.oom_score_adj);
    process["oomScoreAdj"] = json!(input.node.attainable_oom_score(score));
    Ok(process)
}

/// The command replaces the entrypoint and drops the image's arguments; arguments alone replace those.
fn args(
    command: &[String],
    args: &[String],
    entrypoint: &[String],
    cmd: &[String],
) -> Result<Vec<String>, Error> {
    let (program, arguments) = match (command.is_empty(), args.is_empty()) {
        (false, _) => (command, args),
        (true, false) => (entrypoint, args),
        (true, true) => (entrypoint, cmd),
    };
    let all: Vec<String> = program.iter().chain(arguments).cloned().collect();
    match all.is_empty() {
        true => Err(Error::invalid("no command specified")),
        false => Ok(all),
    }
}

fn environment(input: &Input<'_>) -> Vec<String> {
    let mut env: Vec<(String, String)> = vec![("PATH".to_owned(), DEFAULT_PATH.to_owned())];
    let mut set = |name: &str, value: &str| match env.iter_mut().find(|(known, _)| known == name) {
        Some((_, known)) => value.clone_into(known),
        None => env.push((name.to_owned(), value.to_owned())),
    };
    for entry in &input.image.env {
        let (name, value) = entry.split_once('=').unwrap_or((entry, ""));
        set(name, value);
    }
    let hostname = &input.sandbox.hostname;
    if !hostname.is_empty() && input.namespaces.uts.is_some() {
        set("HOSTNAME", hostname);
    }
    if input.container.tty {
        set("TERM", "xterm");
    }
    for entry in &input.container.envs {
        // The OCI configuration is JSON: what is no text cannot be passed unchanged.
        set(&entry.key, &String::from_utf8_lossy(&entry.value));
    }
    if !env.iter().any(|(name, _)| name == "HOME") {
        env.push(("HOME".to_owned(), input.user.home.clone()));
    }
    env.into_iter().map(|(name, value)| format!("{name}={value}")).collect()
}

/// The groups asked for, and with policy Merge those that the image lists the user in.
fn groups(input: &Input<'_>, security: &LinuxContainerSecurityContext) -> Result<Vec<u32>, Error> {
    let mut groups: Vec<u32> = Vec::new();
    let strict = security.supplemental_groups_policy == SupplementalGroupsPolicy::Strict as i32;
    if !strict {
        groups.push(input.user.gid);
        groups.extend(&input.user.groups);
    }
    for group in &security.supplemental_groups {
        groups.push(
            u32::try_from(*group)
                .ok()
                .filter(|gid| *gid != u32::MAX)
                .ok_or_else(|| Error::Invalid(format!("supplemental group {group} is not a group id")))?,
        );
    }
    let mut seen = std::collections::BTreeSet::new();
    groups.retain(|gid| seen.insert(*gid));
    Ok(groups)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn command_and_arguments() {
        let list = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        let check = |command, arguments, expected: &str| {
            let all = args(&list(command), &list(arguments), &list("entry -e"), &list("cmd"));
            assert_eq!(all.unwrap().join(" "), expected);
        };
        check("", "", "entry -e cmd");
        check("", "a b", "entry -e a b");
        check("c", "", "c");
        check("c", "a", "c a");
        assert!(args(&[], &[], &[], &[]).is_err());
    }
}
