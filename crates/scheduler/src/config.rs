//! What the scheduler can be told: the fields of `KubeSchedulerConfiguration` (kubescheduler.config.k8s.io/v1) that
//! are supported, and their limits.

use isopod_scheduling::plugins::{ProfileOptions, Strategy};
use serde::Deserialize;
use std::time::Duration;

/// Leader election by a Lease.
#[derive(Clone, Debug)]
pub struct LeaderElection {
    /// Name of this process among its rivals; must be unique.
    pub identity: String,
    /// Namespace of the Lease (upstream: kube-system).
    pub namespace: String,
    /// Name of the Lease (upstream: kube-scheduler).
    pub name: String,
    /// Time a lease is valid without renewal (upstream: 15 s).
    pub lease_duration: Duration,
    /// Time after which a leader that cannot renew gives up (upstream: 10 s).
    pub renew_deadline: Duration,
    /// Time between tries (upstream: 2 s).
    pub retry_period: Duration,
}

impl LeaderElection {
    /// Upstream's defaults for an identity.
    pub fn new(identity: impl Into<String>) -> Self {
        LeaderElection {
            identity: identity.into(),
            namespace: "kube-system".into(),
            name: "kube-scheduler".into(),
            lease_duration: Duration::from_secs(15),
            renew_deadline: Duration::from_secs(10),
            retry_period: Duration::from_secs(2),
        }
    }
}

/// Everything the scheduler can be told.
#[derive(Clone, Debug)]
pub struct Config {
    /// Elect a leader first; `None` starts at once.
    pub leader_elect: Option<LeaderElection>,
    /// One set of plugins for each `schedulerName` that is served.
    pub profiles: Vec<ProfileOptions>,
}

impl Default for Config {
    fn default() -> Self {
        Config { leader_elect: None, profiles: vec![ProfileOptions::default()] }
    }
}

/// Why the scheduler could not run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A field of the configuration has no meaning.
    #[error("invalid configuration: {0}")]
    Config(String),
    /// Another process took the lease.
    #[error("lost the leader election")]
    LostLease,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct File {
    api_version: String,
    kind: String,
    #[serde(default)]
    percentage_of_nodes_to_score: Option<u32>,
    #[serde(default)]
    profiles: Vec<FileProfile>,
    #[serde(default)]
    leader_election: Option<serde_json::Value>,
    #[serde(default)]
    client_connection: Option<serde_json::Value>,
    #[serde(default)]
    parallelism: Option<u32>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct FileProfile {
    #[serde(default)]
    scheduler_name: Option<String>,
    #[serde(default)]
    percentage_of_nodes_to_score: Option<u32>,
    #[serde(default)]
    plugins: serde_json::Map<String, serde_json::Value>,
    #[serde(default)]
    plugin_config: Vec<PluginConfig>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PluginConfig {
    name: String,
    args: serde_json::Value,
}

fn strategy(config: &[PluginConfig]) -> Result<Strategy, Error> {
    let Some(fit) = config.iter().find(|c| c.name == "NodeResourcesFit") else {
        return Ok(Strategy::LeastAllocated);
    };
    match fit.args.pointer("/scoringStrategy/type").and_then(|v| v.as_str()) {
        None | Some("LeastAllocated") => Ok(Strategy::LeastAllocated),
        Some("MostAllocated") => Ok(Strategy::MostAllocated),
        Some(other) => Err(Error::Config(format!("scoringStrategy.type {other:?} is not supported"))),
    }
}

fn disabled(plugins: &serde_json::Map<String, serde_json::Value>) -> Vec<String> {
    let names = |point: &serde_json::Value| -> Vec<String> {
        let list = point.get("disabled").and_then(|d| d.as_array()).cloned().unwrap_or_default();
        list.iter().filter_map(|p| p.get("name")?.as_str().map(str::to_owned)).collect()
    };
    plugins
        .iter()
        .filter(|(point, _)| matches!(point.as_str(), "multiPoint" | "filter"))
        .flat_map(|(_, p)| names(p))
        .collect()
}

impl Config {
    /// Reads a `KubeSchedulerConfiguration` in YAML or JSON.
    ///
    /// # Errors
    /// When it is malformed or asks for what is not supported.
    pub fn from_yaml(text: &str) -> Result<Self, Error> {
        let value: serde_json::Value =
            serde_yaml_ng::from_str(text).map_err(|e| Error::Config(e.to_string()))?;
        let file: File = serde_json::from_value(value).map_err(|e| Error::Config(e.to_string()))?;
        if file.kind != "KubeSchedulerConfiguration" || file.api_version != "kubescheduler.config.k8s.io/v1" {
            let found = format!("{} {}", file.api_version, file.kind);
            return Err(Error::Config(format!(
                "expected kubescheduler.config.k8s.io/v1 KubeSchedulerConfiguration, got {found}"
            )));
        }
        // These steer upstream's own machinery and change nothing that can be observed here.
        let _ = (file.leader_election, file.client_connection, file.parallelism);
        let mut profiles = Vec::new();
        for profile in &file.profiles {
            profiles.push(ProfileOptions {
                scheduler_name: profile.scheduler_name.clone().unwrap_or_else(|| "default-scheduler".into()),
                strategy: strategy(&profile.plugin_config)?,
                percentage_of_nodes_to_score: profile
                    .percentage_of_nodes_to_score
                    .or(file.percentage_of_nodes_to_score)
                    .unwrap_or(0),
                disabled: disabled(&profile.plugins),
            });
        }
        if profiles.is_empty() {
            profiles.push(ProfileOptions {
                percentage_of_nodes_to_score: file.percentage_of_nodes_to_score.unwrap_or(0),
                ..ProfileOptions::default()
            });
        }
        let config = Config { profiles, ..Config::default() };
        config.validate()?;
        Ok(config)
    }

    /// Checks what cannot work.
    ///
    /// # Errors
    /// Names the field.
    pub fn validate(&self) -> Result<(), Error> {
        if self.profiles.is_empty() {
            return Err(Error::Config("profiles must not be empty".into()));
        }
        for (i, profile) in self.profiles.iter().enumerate() {
            if profile.scheduler_name.is_empty() {
                return Err(Error::Config(format!("profiles[{i}].schedulerName must not be empty")));
            }
            if profile.percentage_of_nodes_to_score > 100 {
                return Err(Error::Config(format!(
                    "profiles[{i}].percentageOfNodesToScore must be at most 100"
                )));
            }
            if self.profiles[..i].iter().any(|p| p.scheduler_name == profile.scheduler_name) {
                return Err(Error::Config(format!(
                    "profiles[{i}].schedulerName {:?} stands twice",
                    profile.scheduler_name
                )));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configuration_file() {
        let config = Config::from_yaml(
            "apiVersion: kubescheduler.config.k8s.io/v1\nkind: KubeSchedulerConfiguration\npercentageOfNodesToScore: 30\nprofiles:\n- schedulerName: packer\n  plugins:\n    filter:\n      disabled: [{name: NodePorts}]\n  pluginConfig:\n  - name: NodeResourcesFit\n    args: {scoringStrategy: {type: MostAllocated}}\n",
        )
        .expect("valid");
        assert_eq!(config.profiles[0].strategy, Strategy::MostAllocated);
        assert_eq!(config.profiles[0].percentage_of_nodes_to_score, 30);
        assert_eq!(config.profiles[0].disabled, ["NodePorts"]);
        for bad in [
            "kind: X\napiVersion: v1",
            "apiVersion: kubescheduler.config.k8s.io/v1\nkind: KubeSchedulerConfiguration\nnope: 1",
            "apiVersion: kubescheduler.config.k8s.io/v1\nkind: KubeSchedulerConfiguration\npercentageOfNodesToScore: 101",
        ] {
            assert!(Config::from_yaml(bad).is_err(), "{bad}");
        }
    }
}
