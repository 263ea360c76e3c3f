//! isopod: Kubernetes in one static binary. Parses flags, builds configurations, wires the parts.

mod agent;
mod check;
mod cli;
mod cluster;
mod config;
mod control_plane;
mod data_dir;
mod demo;
mod image;
mod lifecycle;
mod parts;
mod process;
mod server;
mod server_log;
mod status;
mod user_kubeconfig;

use anyhow::Result;
use clap::Parser;
use cli::{Cli, Command};
use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

/// Names under which the binary is a part by itself, by symlink.
const PARTS: [&str; 7] = [
    "etcd",
    "etcdutl",
    "kube-apiserver",
    "kube-scheduler",
    "kube-controller-manager",
    "kubelet",
    "kube-proxy",
];

/// The arguments, with the name of the part put in when the binary was called by it.
fn arguments() -> Vec<OsString> {
    let mut arguments: Vec<OsString> = std::env::args_os().collect();
    let called = arguments.first().map(Path::new).and_then(Path::file_name).map(OsString::from);
    if let Some(name) = called
        && PARTS.iter().any(|p| name == *p)
    {
        arguments.insert(1, name);
    }
    arguments
}

fn log_to_stderr(filter: &str) -> Result<()> {
    let filter = tracing_subscriber::EnvFilter::try_new(filter)?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    builder.with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr())).init();
    Ok(())
}

async fn run(command: Command) -> Result<()> {
    match command {
        Command::Server(args) => server::run(args).await,
        Command::Up(args) => lifecycle::up(args).await,
        Command::Down(args) => lifecycle::down(args).await,
        Command::Status(args) => status::run(args).await,
        Command::Check(args) => check::run(args).await,
        Command::Image(args) => image::run(args),
        Command::Demo(args) => demo::run(args).await,
        Command::NodeFiles(args) => parts::node_files::run(args),
        Command::Token(args) => cluster::token_command::run(args).await,
        Command::Etcd(flags) => parts::etcd::run(flags).await,
        Command::Etcdutl(flags) => parts::etcdutl::run(flags),
        Command::KubeApiserver(flags) => parts::apiserver::run(flags).await,
        Command::KubeScheduler(flags) => parts::scheduler::run(flags).await,
        Command::KubeControllerManager(flags) => parts::controller_manager::run(flags).await,
        Command::Kubelet(flags) => parts::kubelet::run(flags).await,
        Command::KubeProxy(flags) => parts::proxy::run(flags).await,
        Command::DemoServer(flags) => demo::serve(flags).await,
    }
}

fn log_filter(command: &Command) -> String {
    match command {
        Command::Server(args) => args.log_level.clone().unwrap_or_else(|| "info".into()),
        Command::Etcd(_)
        | Command::KubeApiserver(_)
        | Command::KubeScheduler(_)
        | Command::KubeControllerManager(_)
        | Command::Kubelet(_)
        | Command::KubeProxy(_) => "info".into(),
        _ => "error".into(),
    }
}

fn main() -> ExitCode {
    let arguments = arguments();
    // The shim is single-threaded and must stay small: it is dispatched before anything else exists.
    if arguments.get(1).is_some_and(|a| a == "shim") {
        let directory: Vec<String> =
            arguments[2..].iter().map(|a| a.to_string_lossy().into_owned()).collect();
        return isopod_runtime::shim::main(&directory);
    }
    let cli = Cli::parse_from(arguments);
    // Clients are built with the process's default cryptography.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let started = log_to_stderr(&log_filter(&cli.command)).and_then(|()| {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        runtime.block_on(run(cli.command))
    });
    match started {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("isopod: {error:#}");
            ExitCode::FAILURE
        }
    }
}
