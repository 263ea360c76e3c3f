//! `isopod check`: what this machine has and lacks, each with how to mend it.

use crate::cli::CheckArgs;
use crate::config::Config;
use crate::process::Process;
use anyhow::{Result, bail};
use std::net::{SocketAddr, TcpListener};

/// Bytes that should be free for data; images need more.
const FREE_BYTES_MIN: u64 = 1 << 30;

/// The outcome of one check.
struct Finding {
    name: String,
    problem: Option<String>,
    hint: String,
    /// Whether isopod can do without, with less.
    optional: bool,
}

impl Finding {
    fn new(name: impl Into<String>, problem: Option<String>, hint: impl Into<String>) -> Self {
        Finding { name: name.into(), problem, hint: hint.into(), optional: false }
    }
}

fn port(config: &Config, number: u16, flag: &str) -> Finding {
    let address = SocketAddr::new(config.bind_address, number);
    // A port that our own running server holds is no problem.
    let problem = match TcpListener::bind(address) {
        Ok(_) => None,
        Err(_) if Process::of(&config.data_dir).is_some() => None,
        Err(error) => Some(error.to_string()),
    };
    Finding::new(
        format!("port {number}"),
        problem,
        format!(
            "another program uses it: stop that one (ss -ltnp 'sport = :{number}') or choose another with --{flag}"
        ),
    )
}

fn free_space(config: &Config) -> Finding {
    let existing = config.data_dir.ancestors().find(|p| p.exists()).unwrap_or(std::path::Path::new("/"));
    let problem = match nix::sys::statvfs::statvfs(existing) {
        Ok(s) if s.blocks_available() * s.fragment_size() >= FREE_BYTES_MIN => None,
        Ok(s) => Some(format!("{} MiB free", (s.blocks_available() * s.fragment_size()) >> 20)),
        Err(error) => Some(error.to_string()),
    };
    Finding::new(
        format!("space at {}", existing.display()),
        problem,
        "free at least 1 GiB, or choose another place with --data-dir",
    )
}

fn essentials(config: &Config) -> Vec<Finding> {
    let mut findings = Vec::new();
    if config.agent {
        let root = nix::unistd::geteuid().is_root();
        findings.push(Finding::new(
            "root",
            (!root).then(|| "not running as root".to_owned()),
            "use sudo, or --disable-agent for the control plane alone",
        ));
    }
    findings.push(port(config, config.https_port, "https-port"));
    if config.agent {
        findings.push(port(config, config.kubelet_port, "kubelet-port"));
    }
    findings.push(free_space(config));
    findings
}

/// What is wrong before the server is started, in sentences.
pub(crate) fn faults(config: &Config) -> Vec<String> {
    essentials(config)
        .into_iter()
        .filter_map(|f| Some(format!("- {}: {}; {}", f.name, f.problem?, f.hint)))
        .collect()
}

async fn node_findings(config: &Config) -> Vec<Finding> {
    use isopod_runtime::Level;
    let root = config.data_dir.join(crate::image::RUNTIME);
    let mut findings: Vec<Finding> = isopod_runtime::checks(&root)
        .into_iter()
        .map(|check| Finding {
            problem: (check.level != Level::Good).then_some(check.found),
            name: check.name.to_owned(),
            hint: check.hint,
            optional: check.level == Level::Degraded,
        })
        .collect();
    for probe in isopod_network::check().await {
        findings.push(Finding::new(probe.name, probe.problem, probe.hint));
    }
    findings
}

/// Prints every finding; fails when something that is needed is missing.
pub(crate) async fn run(args: CheckArgs) -> Result<()> {
    let config = Config::load(args.server)?;
    let mut findings = essentials(&config);
    if config.agent && nix::unistd::geteuid().is_root() {
        findings.extend(node_findings(&config).await);
    }
    let mut missing = 0;
    for finding in &findings {
        match &finding.problem {
            None => println!("ok       {}", finding.name),
            Some(problem) if finding.optional => {
                println!("warning  {}: {problem}\n         {}", finding.name, finding.hint);
            }
            Some(problem) => {
                missing += 1;
                println!("missing  {}: {problem}\n         {}", finding.name, finding.hint);
            }
        }
    }
    if missing > 0 {
        bail!("{missing} of {} checks failed", findings.len());
    }
    Ok(())
}
