//! Flags of the API server that `isopod server` and `isopod kube-apiserver` share, under upstream's names.

use anyhow::{Context, Result, bail};
use clap::Args;
use isopod_apiserver::registry::encryption;
use isopod_apiserver::{admission, audit, limits};
use serde::Deserialize;
use serde_yaml_ng::Mapping;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The flags.
#[derive(Args, Debug, Default, Clone, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub(crate) struct ApiFlags {
    /// File of the audit log; - is standard output [default: of server <data-dir>/log/audit/audit.log, else none]
    #[arg(long)]
    pub(crate) audit_log_path: Option<PathBuf>,
    /// Days to keep old files of the audit log, 0 for ever [default: 30]
    #[arg(long)]
    pub(crate) audit_log_maxage: Option<u32>,
    /// Old files of the audit log to keep, 0 for all [default: 10]
    #[arg(long)]
    pub(crate) audit_log_maxbackup: Option<u32>,
    /// Megabytes after which the audit log's file is renamed [default: 100]
    #[arg(long)]
    pub(crate) audit_log_maxsize: Option<u32>,
    /// Format of the audit log: json or legacy [default: json]
    #[arg(long)]
    pub(crate) audit_log_format: Option<String>,
    /// An audit.k8s.io/v1 Policy [default: everything at Metadata but the cluster's own reads and leases]
    #[arg(long)]
    pub(crate) audit_policy_file: Option<PathBuf>,
    /// An apiserver.config.k8s.io/v1 EncryptionConfiguration [default: of server <data-dir>/pki/encryption-config.yaml, else none]
    #[arg(long)]
    pub(crate) encryption_provider_config: Option<PathBuf>,
    /// Admission plugins that are on although they are off by default: none is
    #[arg(long, value_delimiter = ',')]
    pub(crate) enable_admission_plugins: Vec<String>,
    /// Admission plugins that are off, such as DenyServiceExternalIPs
    #[arg(long, value_delimiter = ',')]
    pub(crate) disable_admission_plugins: Vec<String>,
    /// Read-only requests that may run at once; with the mutating ones, the seats of the priority levels [default: 400]
    #[arg(long)]
    pub(crate) max_requests_inflight: Option<u32>,
    /// Mutating requests that may run at once [default: 200]
    #[arg(long)]
    pub(crate) max_mutating_requests_inflight: Option<u32>,
}

/// The names of the flags, as a configuration file has them.
const NAMES: [&str; 11] = [
    "audit-log-path",
    "audit-log-maxage",
    "audit-log-maxbackup",
    "audit-log-maxsize",
    "audit-log-format",
    "audit-policy-file",
    "encryption-provider-config",
    "enable-admission-plugins",
    "disable-admission-plugins",
    "max-requests-inflight",
    "max-mutating-requests-inflight",
];

impl ApiFlags {
    /// Takes the entries that are these flags out of a configuration file.
    pub(crate) fn take(file: &mut Mapping) -> Result<ApiFlags, serde_yaml_ng::Error> {
        let own = NAMES.iter().filter_map(|name| file.remove(*name).map(|value| ((*name).into(), value)));
        serde_yaml_ng::from_value(serde_yaml_ng::Value::Mapping(own.collect()))
    }

    /// Fills what is not given here from `other`.
    pub(crate) fn or(self, other: ApiFlags) -> ApiFlags {
        let list = |own: Vec<String>, other| if own.is_empty() { other } else { own };
        ApiFlags {
            audit_log_path: self.audit_log_path.or(other.audit_log_path),
            audit_log_maxage: self.audit_log_maxage.or(other.audit_log_maxage),
            audit_log_maxbackup: self.audit_log_maxbackup.or(other.audit_log_maxbackup),
            audit_log_maxsize: self.audit_log_maxsize.or(other.audit_log_maxsize),
            audit_log_format: self.audit_log_format.or(other.audit_log_format),
            audit_policy_file: self.audit_policy_file.or(other.audit_policy_file),
            encryption_provider_config: self.encryption_provider_config.or(other.encryption_provider_config),
            max_requests_inflight: self.max_requests_inflight.or(other.max_requests_inflight),
            max_mutating_requests_inflight: self
                .max_mutating_requests_inflight
                .or(other.max_mutating_requests_inflight),
            enable_admission_plugins: list(self.enable_admission_plugins, other.enable_admission_plugins),
            disable_admission_plugins: list(self.disable_admission_plugins, other.disable_admission_plugins),
        }
    }

    /// The flags as a command line that says the same wherever it is run.
    pub(crate) fn arguments(&self) -> Vec<OsString> {
        let file = |path: &Option<PathBuf>| {
            path.as_ref().map(|path| match path.as_os_str() {
                standard if standard == "-" => standard.to_owned(),
                _ => std::path::absolute(path).unwrap_or_else(|_| path.clone()).into_os_string(),
            })
        };
        let list = |list: &[String]| (!list.is_empty()).then(|| OsString::from(list.join(",")));
        let number = |number: Option<u32>| number.map(|n| OsString::from(n.to_string()));
        let values = [
            file(&self.audit_log_path),
            number(self.audit_log_maxage),
            number(self.audit_log_maxbackup),
            number(self.audit_log_maxsize),
            self.audit_log_format.as_ref().map(OsString::from),
            file(&self.audit_policy_file),
            file(&self.encryption_provider_config),
            list(&self.enable_admission_plugins),
            list(&self.disable_admission_plugins),
            number(self.max_requests_inflight),
            number(self.max_mutating_requests_inflight),
        ];
        let given = NAMES.iter().zip(values).filter_map(|(name, value)| Some((name, value?)));
        given.flat_map(|(name, value)| [OsString::from(format!("--{name}")), value]).collect()
    }

    /// Sets what the flags say. `audit_log` is where the audit log goes when they do not say it; without either
    /// there is none.
    pub(crate) fn apply(
        &self,
        config: &mut isopod_apiserver::Config,
        audit_log: Option<&Path>,
    ) -> Result<()> {
        if let Some(path) = self.audit_log_path.as_deref().or(audit_log) {
            config.audit = Some(self.audit(path)?);
        }
        if let Some(path) = &self.encryption_provider_config {
            let parsed = encryption::parse(&super::read("encryption-provider-config", path)?);
            let parsed =
                parsed.with_context(|| format!("--encryption-provider-config: {}", path.display()))?;
            config.encryption = Some(Arc::new(parsed));
        }
        let reading = self.max_requests_inflight.unwrap_or(limits::INFLIGHT_READ_MAX);
        let writing = self.max_mutating_requests_inflight.unwrap_or(limits::INFLIGHT_WRITE_MAX);
        config.seats = reading.saturating_add(writing);
        self.check_plugins()?;
        config.admission.disabled.clone_from(&self.disable_admission_plugins);
        Ok(())
    }

    fn check_plugins(&self) -> Result<()> {
        let lists = [
            ("enable-admission-plugins", &self.enable_admission_plugins),
            ("disable-admission-plugins", &self.disable_admission_plugins),
        ];
        for (flag, list) in lists {
            if let Some(unknown) = list.iter().find(|name| !admission::names().any(|known| known == *name)) {
                let known: Vec<&str> = admission::names().collect();
                bail!("--{flag}: there is no plugin {unknown:?}; there are {}", known.join(", "));
            }
        }
        if let Some(both) =
            self.enable_admission_plugins.iter().find(|p| self.disable_admission_plugins.contains(p))
        {
            bail!("--enable-admission-plugins and --disable-admission-plugins both name {both}");
        }
        Ok(())
    }

    fn audit(&self, path: &Path) -> Result<audit::Config> {
        let policy = match &self.audit_policy_file {
            Some(path) => audit::parse_policy(&super::read("audit-policy-file", path)?)
                .with_context(|| format!("--audit-policy-file: {}", path.display()))?,
            None => Default::default(),
        };
        let format = match self.audit_log_format.as_deref() {
            None | Some("json") => audit::log::Format::Json,
            Some("legacy") => audit::log::Format::Legacy,
            Some(other) => bail!("--audit-log-format: {other:?} is neither json nor legacy"),
        };
        let default = audit::log::Config::default();
        Ok(audit::Config {
            policy,
            log: audit::log::Config {
                path: path.to_owned(),
                max_age_days: self.audit_log_maxage.unwrap_or(default.max_age_days),
                max_backups: self.audit_log_maxbackup.unwrap_or(default.max_backups),
                max_size_mib: self.audit_log_maxsize.unwrap_or(default.max_size_mib),
                format,
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_has_them_all_and_the_command_line_wins() {
        let text: String = NAMES.iter().map(|name| format!("{name}: '7'\n")).collect();
        let text = text
            .replace("'7'", "7")
            .replace("format: 7", "format: legacy")
            .replace("file: 7", "file: f")
            .replace("config: 7", "config: c")
            .replace("plugins: 7", "plugins: [a, b]");
        let mut file: Mapping = serde_yaml_ng::from_str(&text.replace("path: 7", "path: /p")).expect("YAML");
        file.insert("node-name".into(), "n".into());
        let flags = ApiFlags::take(&mut file).expect("all names are fields");
        assert_eq!(file.len(), 1);
        assert_eq!((flags.audit_log_maxage, flags.audit_log_format.as_deref()), (Some(7), Some("legacy")));
        let given = ApiFlags { audit_log_maxage: Some(3), ..ApiFlags::default() };
        let both = given.or(flags);
        assert_eq!((both.audit_log_maxage, both.audit_log_maxsize), (Some(3), Some(7)));
        let arguments = both.arguments();
        assert_eq!(arguments.len(), 2 * NAMES.len());
        assert_eq!(arguments[..4], ["--audit-log-path", "/p", "--audit-log-maxage", "3"]);
    }

    #[test]
    fn faults_name_the_flag() {
        let mut config = isopod_apiserver::Config::new(
            [127, 0, 0, 1].into(),
            6443,
            "10.0.0.0/24".parse().expect("a range"),
        );
        let path = Path::new("-");
        ApiFlags::default().apply(&mut config, None).expect("fine");
        assert!(config.audit.is_none());
        let flags = ApiFlags { audit_log_format: Some("xml".into()), ..ApiFlags::default() };
        let error = flags.apply(&mut config, Some(path)).expect_err("no such format");
        assert!(error.to_string().contains("--audit-log-format"), "{error}");
        let flags = ApiFlags { audit_policy_file: Some("/nonexistent".into()), ..ApiFlags::default() };
        let error = flags.apply(&mut config, Some(path)).expect_err("no such file");
        assert!(error.to_string().contains("--audit-policy-file"), "{error}");
        let plugins = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>();
        let off = ["DenyServiceExternalIPs"];
        let flags = ApiFlags { disable_admission_plugins: plugins(&off), ..ApiFlags::default() };
        flags.apply(&mut config, None).expect("a known plugin");
        assert_eq!(config.admission.disabled, off);
        let flags = ApiFlags { enable_admission_plugins: plugins(&off), ..flags };
        let error = flags.apply(&mut config, None).expect_err("on and off");
        assert!(error.to_string().contains("both name DenyServiceExternalIPs"), "{error}");
        let flags = ApiFlags { disable_admission_plugins: plugins(&["AlwaysDeny"]), ..ApiFlags::default() };
        let error = flags.apply(&mut config, None).expect_err("unknown");
        assert!(error.to_string().contains("--disable-admission-plugins"), "{error}");
    }
}
