//! The command line.

use clap::{Args, Parser, Subcommand};
use serde::Deserialize;
use std::net::IpAddr;
use std::path::PathBuf;

/// Kubernetes in one static binary.
#[derive(Parser, Debug)]
#[command(name = "isopod", version, about, max_term_width = 100)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What to do.
#[derive(Subcommand, Debug)]
pub(crate) enum Command {
    /// Run control plane and node in the foreground.
    Server(ServerArgs),
    /// Start the server in the background, wait until the node is Ready, add a kubeconfig context.
    Up(UpArgs),
    /// Stop the server and its containers; with --purge remove everything it made.
    Down(DownArgs),
    /// Show the parts, their health, version and memory.
    Status(StatusArgs),
    /// Check what this machine has and lacks, and say how to mend it.
    Check(CheckArgs),
    /// Work with the node's images.
    Image(ImageArgs),
    /// Run a small Deployment and Service and show that requests reach its pods.
    Demo(DemoArgs),
    /// Write the files with which a kubelet and kube-proxy run apart reach this cluster.
    NodeFiles(crate::parts::node_files::NodeFilesArgs),
    /// Make, list and delete the tokens with which servers join this cluster.
    Token(crate::cluster::token_command::TokenArgs),
    /// Run etcd alone.
    Etcd(crate::parts::etcd::Flags),
    /// Check and restore snapshots of the store, and of any etcd.
    Etcdutl(crate::parts::etcdutl::Flags),
    /// Run kube-apiserver alone.
    KubeApiserver(crate::parts::apiserver::Flags),
    /// Run kube-scheduler alone.
    KubeScheduler(crate::parts::scheduler::Flags),
    /// Run kube-controller-manager alone.
    KubeControllerManager(crate::parts::controller_manager::Flags),
    /// Run kubelet alone.
    Kubelet(crate::parts::kubelet::Flags),
    /// Run kube-proxy alone.
    KubeProxy(crate::parts::proxy::Flags),
    /// The web server of the demo's pods.
    #[command(hide = true)]
    DemoServer(crate::demo::ServerFlags),
}

/// Flags of `isopod server`; each can also stand in the file given with --config, by the same name.
#[derive(Args, Debug, Default, Clone, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub(crate) struct ServerArgs {
    /// Where everything is kept [default: /var/lib/isopod]
    #[arg(long)]
    pub(crate) data_dir: Option<PathBuf>,
    /// Where state that need not survive a reboot is kept [default: /run/isopod]
    #[arg(long)]
    pub(crate) run_dir: Option<PathBuf>,
    /// A YAML file of these flags; a flag on the command line wins
    #[arg(long)]
    #[serde(skip)]
    pub(crate) config: Option<PathBuf>,
    /// Address the API server listens on [default: 0.0.0.0]
    #[arg(long)]
    pub(crate) bind_address: Option<IpAddr>,
    /// Port the API server listens on [default: 6443]
    #[arg(long)]
    pub(crate) https_port: Option<u16>,
    /// Name of this node [default: the hostname]
    #[arg(long)]
    pub(crate) node_name: Option<String>,
    /// Address of this node [default: that of the default route, else the first that is not loopback]
    #[arg(long)]
    pub(crate) node_ip: Option<IpAddr>,
    /// Range of pod addresses [default: 10.42.0.0/16]
    #[arg(long)]
    pub(crate) cluster_cidr: Option<String>,
    /// Range of Service addresses [default: 10.43.0.0/16]
    #[arg(long)]
    pub(crate) service_cluster_ip_range: Option<String>,
    /// DNS domain of the cluster [default: cluster.local]
    #[arg(long)]
    pub(crate) cluster_domain: Option<String>,
    /// Where to write the administrator's kubeconfig [default: <data-dir>/admin.kubeconfig]
    #[arg(long)]
    pub(crate) write_kubeconfig: Option<PathBuf>,
    /// More names and addresses for the API server's certificate
    #[arg(long = "tls-san", value_delimiter = ',')]
    pub(crate) tls_san: Vec<String>,
    /// Run the control plane alone; needs no root
    #[arg(long, num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    pub(crate) disable_agent: Option<bool>,
    /// Let other servers join this one; a server that was alone keeps its data
    #[arg(long, num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    pub(crate) cluster_init: Option<bool>,
    /// Join the cluster of this server, a URL like https://HOST:6443
    #[arg(long, requires = "token")]
    pub(crate) server: Option<String>,
    /// What lets this server in, of `isopod token create`; a file's content with @PATH
    #[arg(long, requires = "server")]
    pub(crate) token: Option<String>,
    /// An etcd outside, instead of the built-in one
    #[arg(long, value_delimiter = ',')]
    pub(crate) etcd_servers: Vec<String>,
    /// CA of that etcd
    #[arg(long)]
    pub(crate) etcd_cafile: Option<PathBuf>,
    /// Client certificate for that etcd
    #[arg(long)]
    pub(crate) etcd_certfile: Option<PathBuf>,
    /// Key of that certificate
    #[arg(long)]
    pub(crate) etcd_keyfile: Option<PathBuf>,
    /// Port of the kubelet [default: 10250]
    #[arg(long)]
    pub(crate) kubelet_port: Option<u16>,
    /// Directory of static pod manifests [default: <data-dir>/manifests]
    #[arg(long)]
    pub(crate) pod_manifest_path: Option<PathBuf>,
    /// What to log: error, warn, info, debug, trace, or a filter like isopod_kubelet=debug [default: info]
    #[arg(long)]
    pub(crate) log_level: Option<String>,
    /// Silence after which a node is unknown [default: 50s]
    #[arg(long)]
    pub(crate) node_monitor_grace_period: Option<String>,
    /// Flags of the API server
    #[command(flatten)]
    #[serde(skip)]
    pub(crate) api: crate::parts::api_flags::ApiFlags,
}

/// Flags of `isopod up`.
#[derive(Args, Debug, Clone)]
pub(crate) struct UpArgs {
    #[command(flatten)]
    pub(crate) server: ServerArgs,
    /// Do not touch the user's kubeconfig
    #[arg(long)]
    pub(crate) no_context: bool,
    /// Seconds to wait for the node to be Ready
    #[arg(long, default_value_t = 60)]
    pub(crate) timeout_seconds: u64,
}

/// Where a running server keeps its things.
#[derive(Args, Debug, Clone)]
pub(crate) struct Place {
    /// Where everything is kept
    #[arg(long, default_value = crate::config::DATA_DIR)]
    pub(crate) data_dir: PathBuf,
    /// Where state that need not survive a reboot is kept
    #[arg(long, default_value = crate::config::RUN_DIR)]
    pub(crate) run_dir: PathBuf,
}

/// Flags of `isopod down`.
#[derive(Args, Debug, Clone)]
pub(crate) struct DownArgs {
    #[command(flatten)]
    pub(crate) place: Place,
    /// Remove all data, links, rules, cgroups and mounts too
    #[arg(long)]
    pub(crate) purge: bool,
}

/// Flags of `isopod status`.
#[derive(Args, Debug, Clone)]
pub(crate) struct StatusArgs {
    #[command(flatten)]
    pub(crate) place: Place,
}

/// Flags of `isopod check`.
#[derive(Args, Debug, Clone)]
pub(crate) struct CheckArgs {
    #[command(flatten)]
    pub(crate) server: ServerArgs,
}

/// Flags of `isopod image`.
#[derive(Args, Debug, Clone)]
pub(crate) struct ImageArgs {
    #[command(flatten)]
    pub(crate) place: Place,
    #[command(subcommand)]
    pub(crate) command: ImageCommand,
}

/// What to do with images.
#[derive(Subcommand, Debug, Clone)]
pub(crate) enum ImageCommand {
    /// Import a docker or OCI archive.
    Import {
        /// The archive: of docker save or of an OCI layout, plain or gzipped
        file: PathBuf,
        /// Name to give it, where the archive has none
        #[arg(long)]
        name: Option<String>,
    },
    /// List images.
    #[command(alias = "ls")]
    List,
    /// Remove an image.
    Rm {
        /// Names or ids
        #[arg(required = true)]
        names: Vec<String>,
    },
}

/// Flags of `isopod demo`.
#[derive(Args, Debug, Clone)]
pub(crate) struct DemoArgs {
    #[command(flatten)]
    pub(crate) place: Place,
    /// Remove the demo again
    #[arg(long)]
    pub(crate) delete: bool,
}
