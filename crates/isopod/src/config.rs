//! The server's configuration: flags over file over defaults, checked once.

use crate::cli::ServerArgs;
use crate::cluster::Join;
use crate::parts::api_flags::ApiFlags;
use anyhow::{Context, Result, bail};
use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::path::PathBuf;
use std::time::Duration;

pub(crate) const DATA_DIR: &str = "/var/lib/isopod";
pub(crate) const RUN_DIR: &str = "/run/isopod";

/// Everything `isopod server` is told.
#[derive(Debug, Clone)]
pub(crate) struct Config {
    pub(crate) data_dir: PathBuf,
    pub(crate) run_dir: PathBuf,
    pub(crate) bind_address: IpAddr,
    pub(crate) https_port: u16,
    pub(crate) node_name: String,
    pub(crate) node_ip: IpAddr,
    pub(crate) cluster_cidr: ipnet::IpNet,
    pub(crate) service_cidr: ipnet::IpNet,
    pub(crate) cluster_domain: String,
    pub(crate) kubeconfig: PathBuf,
    pub(crate) tls_san: Vec<String>,
    pub(crate) agent: bool,
    pub(crate) etcd: Option<OutsideEtcd>,
    pub(crate) cluster_init: bool,
    pub(crate) join: Option<Join>,
    pub(crate) kubelet_port: u16,
    pub(crate) manifests: PathBuf,
    pub(crate) log_level: String,
    pub(crate) node_monitor_grace_period: Duration,
    pub(crate) api: ApiFlags,
}

/// An etcd that is not ours.
#[derive(Debug, Clone)]
pub(crate) struct OutsideEtcd {
    pub(crate) servers: Vec<String>,
    pub(crate) ca: Option<PathBuf>,
    pub(crate) cert: Option<PathBuf>,
    pub(crate) key: Option<PathBuf>,
}

/// Reads a file of flags.
fn parse(text: &str) -> Result<ServerArgs, serde_yaml_ng::Error> {
    if text.trim().is_empty() {
        return Ok(ServerArgs::default());
    }
    let mut file: serde_yaml_ng::Mapping = serde_yaml_ng::from_str(text)?;
    let api = ApiFlags::take(&mut file)?;
    let own: ServerArgs = serde_yaml_ng::from_value(serde_yaml_ng::Value::Mapping(file))?;
    Ok(ServerArgs { api, ..own })
}

/// Fills what the command line leaves open from the file.
fn merge(args: ServerArgs) -> Result<ServerArgs> {
    let Some(path) = &args.config else { return Ok(args) };
    let text = std::fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
    let file = parse(&text).with_context(|| format!("{} is not valid", path.display()))?;
    let list = |flag: Vec<String>, file: Vec<String>| if flag.is_empty() { file } else { flag };
    Ok(ServerArgs {
        data_dir: args.data_dir.or(file.data_dir),
        run_dir: args.run_dir.or(file.run_dir),
        config: None,
        bind_address: args.bind_address.or(file.bind_address),
        https_port: args.https_port.or(file.https_port),
        node_name: args.node_name.or(file.node_name),
        node_ip: args.node_ip.or(file.node_ip),
        cluster_cidr: args.cluster_cidr.or(file.cluster_cidr),
        service_cluster_ip_range: args.service_cluster_ip_range.or(file.service_cluster_ip_range),
        cluster_domain: args.cluster_domain.or(file.cluster_domain),
        write_kubeconfig: args.write_kubeconfig.or(file.write_kubeconfig),
        tls_san: list(args.tls_san, file.tls_san),
        disable_agent: args.disable_agent.or(file.disable_agent),
        cluster_init: args.cluster_init.or(file.cluster_init),
        server: args.server.or(file.server),
        token: args.token.or(file.token),
        etcd_servers: list(args.etcd_servers, file.etcd_servers),
        etcd_cafile: args.etcd_cafile.or(file.etcd_cafile),
        etcd_certfile: args.etcd_certfile.or(file.etcd_certfile),
        etcd_keyfile: args.etcd_keyfile.or(file.etcd_keyfile),
        kubelet_port: args.kubelet_port.or(file.kubelet_port),
        pod_manifest_path: args.pod_manifest_path.or(file.pod_manifest_path),
        log_level: args.log_level.or(file.log_level),
        node_monitor_grace_period: args.node_monitor_grace_period.or(file.node_monitor_grace_period),
        api: args.api.or(file.api),
    })
}

/// The server to join, and the token for it.
fn join(server: Option<String>, token: Option<&str>) -> Result<Option<Join>> {
    let (server, token) = match (server, token) {
        (None, None) => return Ok(None),
        (Some(server), Some(token)) => (server, token),
        _ => bail!("--server and --token go together"),
    };
    let token = match token.strip_prefix('@') {
        Some(path) => std::fs::read_to_string(path).with_context(|| format!("--token: read {path}"))?,
        None => token.to_owned(),
    };
    Ok(Some(Join { server, token: token.parse().context("--token")? }))
}

fn range(flag: &str, text: &str) -> Result<ipnet::IpNet> {
    let net: ipnet::IpNet = text
        .parse()
        .with_context(|| format!("--{flag}: {text:?} is not an address range like 10.42.0.0/16"))?;
    Ok(net.trunc())
}

/// A time as upstream's flags write it: `50s`, `1m30s`, `250ms`, `2h`.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let bad = || format!("{text:?} is not a time such as 50s or 1m30s");
    let mut rest = text;
    let mut sum = Duration::ZERO;
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(bad)?;
        let number: f64 = rest[..end].parse().map_err(|_| bad())?;
        let unit_end = rest[end..].find(|c: char| c.is_ascii_digit()).map_or(rest.len(), |i| end + i);
        let unit = match &rest[end..unit_end] {
            "h" => 3600.0,
            "m" => 60.0,
            "s" => 1.0,
            "ms" => 1e-3,
            "us" | "µs" => 1e-6,
            _ => return Err(bad()),
        };
        sum += Duration::try_from_secs_f64(number * unit).map_err(|_| bad())?;
        rest = &rest[unit_end..];
    }
    if text.is_empty() { Err(bad()) } else { Ok(sum) }
}

/// The machine's hostname in the form that node names have.
pub(crate) fn hostname() -> Result<String> {
    let name = nix::unistd::gethostname().context("read the hostname")?;
    Ok(name.to_string_lossy().trim().to_lowercase())
}

/// The address from which the default route is used; no packet is sent. Without a route: the first address of a
/// link that is not loopback; without any: loopback.
pub(crate) fn node_address() -> IpAddr {
    let routed = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))
        .and_then(|socket| {
            socket.connect((Ipv4Addr::new(192, 0, 2, 1), 9))?;
            socket.local_addr()
        })
        .map(|a| a.ip());
    if let Ok(ip) = routed
        && !ip.is_unspecified()
        && !ip.is_loopback()
    {
        return ip;
    }
    nix::ifaddrs::getifaddrs()
        .into_iter()
        .flatten()
        .filter(|i| !i.interface_name.starts_with("isopod"))
        .filter_map(|i| Some(i.address?.as_sockaddr_in()?.ip()))
        .find(|ip| !ip.is_loopback())
        .map_or(IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V4)
}

impl Config {
    /// Reads flags and file.
    pub(crate) fn load(args: ServerArgs) -> Result<Self> {
        let args = merge(args)?;
        let data_dir = args.data_dir.unwrap_or_else(|| DATA_DIR.into());
        let data_dir = std::path::absolute(&data_dir).context("--data-dir")?;
        let node_name = match args.node_name {
            Some(name) => name,
            None => hostname()?,
        };
        let etcd = (!args.etcd_servers.is_empty()).then_some(OutsideEtcd {
            servers: args.etcd_servers,
            ca: args.etcd_cafile,
            cert: args.etcd_certfile,
            key: args.etcd_keyfile,
        });
        let config = Config {
            run_dir: args.run_dir.unwrap_or_else(|| RUN_DIR.into()),
            bind_address: args.bind_address.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED)),
            https_port: args.https_port.unwrap_or(6443),
            node_ip: args.node_ip.unwrap_or_else(node_address),
            cluster_cidr: range("cluster-cidr", args.cluster_cidr.as_deref().unwrap_or("10.42.0.0/16"))?,
            service_cidr: range(
                "service-cluster-ip-range",
                args.service_cluster_ip_range.as_deref().unwrap_or("10.43.0.0/16"),
            )?,
            cluster_domain: args.cluster_domain.unwrap_or_else(|| "cluster.local".into()),
            kubeconfig: args.write_kubeconfig.unwrap_or_else(|| data_dir.join("admin.kubeconfig")),
            tls_san: args.tls_san,
            agent: !args.disable_agent.unwrap_or(false),
            etcd,
            cluster_init: args.cluster_init.unwrap_or(false),
            join: join(args.server, args.token.as_deref())?,
            kubelet_port: args.kubelet_port.unwrap_or(10250),
            manifests: args.pod_manifest_path.unwrap_or_else(|| data_dir.join("manifests")),
            log_level: args.log_level.unwrap_or_else(|| "info".into()),
            node_monitor_grace_period: match &args.node_monitor_grace_period {
                Some(text) => {
                    duration(text).map_err(anyhow::Error::msg).context("--node-monitor-grace-period")?
                }
                None => Duration::from_secs(50),
            },
            api: args.api,
            node_name,
            data_dir,
        };
        config.validate()?;
        Ok(config)
    }

    fn validate(&self) -> Result<()> {
        let faults = isopod_api::names::is_dns1123_subdomain(&self.node_name);
        if !faults.is_empty() {
            bail!("--node-name {:?}: {}", self.node_name, faults.join("; "));
        }
        let faults = isopod_api::names::is_dns1123_subdomain(&self.cluster_domain);
        if !faults.is_empty() {
            bail!("--cluster-domain {:?}: {}", self.cluster_domain, faults.join("; "));
        }
        let (pods, services) = (&self.cluster_cidr, &self.service_cidr);
        if pods.contains(services) || services.contains(pods) {
            bail!("--cluster-cidr {pods} and --service-cluster-ip-range {services} overlap");
        }
        if services.max_prefix_len() - services.prefix_len() < 4 {
            bail!("--service-cluster-ip-range {services} is too small: at least 16 addresses are needed");
        }
        if services.max_prefix_len() - services.prefix_len() > 20 {
            bail!("--service-cluster-ip-range {services} is too large: at most 2^20 addresses");
        }
        if self.https_port == self.kubelet_port {
            bail!("--https-port and --kubelet-port are both {}", self.https_port);
        }
        Ok(())
    }

    /// The address of the `kubernetes` Service: the first of the range.
    pub(crate) fn kubernetes_service_ip(&self) -> IpAddr {
        nth(&self.service_cidr, 1)
    }

    /// The address of cluster DNS: the tenth of the range.
    pub(crate) fn dns_service_ip(&self) -> IpAddr {
        nth(&self.service_cidr, 10)
    }

    /// The URL under which this machine reaches the API server.
    pub(crate) fn local_url(&self) -> String {
        let host = if self.bind_address.is_unspecified() {
            IpAddr::V4(Ipv4Addr::LOCALHOST)
        } else {
            self.bind_address
        };
        format!("https://{}", std::net::SocketAddr::new(host, self.https_port))
    }
}

fn nth(net: &ipnet::IpNet, n: u32) -> IpAddr {
    match net {
        ipnet::IpNet::V4(net) => IpAddr::V4(Ipv4Addr::from(u32::from(net.network()) + n)),
        ipnet::IpNet::V6(net) => IpAddr::V6((u128::from(net.network()) + u128::from(n)).into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(text: &str) -> ServerArgs {
        parse(text).expect("valid")
    }

    #[test]
    fn defaults_and_file() {
        let config =
            Config::load(args("node-name: n1\nnode-ip: 10.0.0.1\ndisable-agent: true")).expect("valid");
        assert_eq!(config.kubernetes_service_ip().to_string(), "10.43.0.1");
        assert_eq!(config.dns_service_ip().to_string(), "10.43.0.10");
        assert_eq!(config.local_url(), "https://127.0.0.1:6443");
        assert!(!config.agent);
        assert_eq!(config.kubeconfig, PathBuf::from("/var/lib/isopod/admin.kubeconfig"));
    }

    #[test]
    fn durations() {
        for (text, millis) in [
            ("50s", Some(50_000)),
            ("1m30s", Some(90_000)),
            ("250ms", Some(250)),
            ("1.5h", Some(5_400_000)),
            ("", None),
            ("5", None),
            ("5x", None),
        ] {
            assert_eq!(duration(text).ok().map(|d| d.as_millis()), millis, "{text}");
        }
    }

    #[test]
    fn faults_name_the_flag() {
        for (text, want) in [
            ("node-name: A_b", "--node-name"),
            ("cluster-cidr: 10.43.0.0/24", "overlap"),
            ("cluster-cidr: nonsense", "--cluster-cidr"),
            ("service-cluster-ip-range: 10.43.0.0/30", "too small"),
            ("https-port: 10250", "--https-port"),
        ] {
            let error = Config::load(ServerArgs {
                node_name: args(text).node_name.or(Some("n".into())),
                ..args(text)
            })
            .expect_err(text);
            assert!(format!("{error:#}").contains(want), "{text}: {error:#}");
        }
    }
}
