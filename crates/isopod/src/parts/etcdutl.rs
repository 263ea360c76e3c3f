//! `isopod etcdutl`: snapshots of the store, and of any etcd, as files. Flags and output as upstream's.

use anyhow::{Result, bail};
use clap::{Args, Subcommand, ValueEnum};
use isopod_etcd::snapshot::{self, FileHash, FileStatus, RestoreOptions};
use std::path::PathBuf;

/// Flags of `isopod etcdutl`.
#[derive(Args, Debug, Clone)]
pub(crate) struct Flags {
    /// How to print
    #[arg(short = 'w', long, global = true, default_value = "simple")]
    write_out: Output,
    #[command(subcommand)]
    command: Command,
}

/// How to print.
#[derive(ValueEnum, Debug, Clone, Copy, PartialEq, Eq)]
enum Output {
    Simple,
    Fields,
    Json,
    Table,
}

#[derive(Subcommand, Debug, Clone)]
enum Command {
    /// Work with a snapshot.
    Snapshot {
        #[command(subcommand)]
        command: SnapshotCommand,
    },
    /// Print the checksum of a snapshot's history.
    Hashkv {
        /// The snapshot
        file: PathBuf,
        /// Up to which revision; 0 for the newest
        #[arg(long, default_value_t = 0)]
        rev: i64,
    },
    /// Print the version.
    Version,
}

#[derive(Subcommand, Debug, Clone)]
enum SnapshotCommand {
    /// Print checksum, revision, keys and size of a snapshot.
    Status {
        /// The snapshot
        file: PathBuf,
    },
    /// Make the data directory of a new member from a snapshot.
    Restore(Restore),
}

/// Flags of `isopod etcdutl snapshot restore`.
#[derive(Args, Debug, Clone)]
struct Restore {
    /// The snapshot
    file: PathBuf,
    /// The new data directory [default: NAME.etcd]
    #[arg(long)]
    data_dir: Option<PathBuf>,
    /// Name of the new member
    #[arg(long, default_value = "default")]
    name: String,
    /// All members of the new cluster, as name=url [default: NAME=http://localhost:2380]
    #[arg(long, value_delimiter = ',')]
    initial_cluster: Vec<String>,
    /// What makes this cluster another one than that of the snapshot
    #[arg(long, default_value = "etcd-cluster")]
    initial_cluster_token: String,
    /// Where the other members reach the new member
    #[arg(long, value_delimiter = ',', default_value = "http://localhost:2380")]
    initial_advertise_peer_urls: Vec<String>,
    /// Do without the checksum at the file's end: for a file copied from a data directory
    #[arg(long)]
    skip_hash_check: bool,
    /// By how much to raise the revision, so that no client sees it go back
    #[arg(long, default_value_t = 0)]
    bump_revision: u64,
    /// Call all history before the raised revision compacted (required with --bump-revision)
    #[arg(long)]
    mark_compacted: bool,
}

/// Runs the tool.
pub(crate) fn run(flags: Flags) -> Result<()> {
    match flags.command {
        Command::Snapshot { command: SnapshotCommand::Status { file } } => {
            print!("{}", show_status(&snapshot::status(&file)?, flags.write_out));
        }
        Command::Snapshot { command: SnapshotCommand::Restore(restore) } => snapshot_restore(restore)?,
        Command::Hashkv { file, rev } => {
            print!("{}", show_hash(&snapshot::hash_kv(&file, rev)?, flags.write_out));
        }
        Command::Version => println!("etcdutl version: {}\nAPI version: 3.6", env!("CARGO_PKG_VERSION")),
    }
    Ok(())
}

fn snapshot_restore(flags: Restore) -> Result<()> {
    let mut members: Vec<(String, Vec<String>)> = Vec::new();
    for member in &flags.initial_cluster {
        let Some((name, url)) = member.split_once('=').filter(|(_, url)| url.contains("://")) else {
            bail!("--initial-cluster: {member:?} is not name=url");
        };
        match members.iter_mut().find(|(other, _)| other == name) {
            Some((_, urls)) => urls.push(url.to_owned()),
            None => members.push((name.to_owned(), vec![url.to_owned()])),
        }
    }
    check_urls(&flags, &members)?;
    let data_dir = flags.data_dir.unwrap_or_else(|| PathBuf::from(format!("{}.etcd", flags.name)));
    let config = isopod_etcd::Config {
        name: flags.name,
        peer_urls: flags.initial_advertise_peer_urls,
        ..isopod_etcd::Config::new(data_dir)
    };
    Ok(snapshot::restore(&RestoreOptions {
        snapshot: flags.file,
        skip_hash_check: flags.skip_hash_check,
        bump_revision: flags.bump_revision,
        mark_compacted: flags.mark_compacted,
        cluster_token: flags.initial_cluster_token,
        members,
        config,
    })?)
}

/// Refuses a list of members that says something else of this one than its own flags.
fn check_urls(flags: &Restore, members: &[(String, Vec<String>)]) -> Result<()> {
    let Some((_, urls)) = members.iter().find(|(name, _)| *name == flags.name) else { return Ok(()) };
    let sorted = |urls: &[String]| {
        let mut urls = urls.to_vec();
        urls.sort_unstable();
        urls
    };
    if sorted(urls) != sorted(&flags.initial_advertise_peer_urls) {
        bail!(
            "--initial-cluster has {} for {}, but --initial-advertise-peer-urls has {}",
            urls.join(","),
            flags.name,
            flags.initial_advertise_peer_urls.join(",")
        );
    }
    Ok(())
}

fn show_status(status: &FileStatus, output: Output) -> String {
    let FileStatus { hash, revision, total_keys, total_bytes, version } = status;
    let size = human_bytes(*total_bytes);
    match output {
        Output::Simple => format!("{hash:x}, {revision}, {total_keys}, {size}, {version}\n"),
        Output::Fields => format!(
            "\"Hash\" : {hash}\n\"Revision\" : {revision}\n\"Keys\" : {total_keys}\n\"Size\" : {total_bytes}\n\
             \"Version\" : \"{version}\"\n"
        ),
        Output::Json => {
            let json = serde_json::json!({
                "hash": hash, "revision": revision, "totalKey": total_keys, "totalSize": total_bytes,
                "version": version,
            });
            format!("{json}\n")
        }
        Output::Table => table(
            &["HASH", "REVISION", "TOTAL KEYS", "TOTAL SIZE", "VERSION"],
            &[&format!("{hash:x}"), &revision.to_string(), &total_keys.to_string(), &size, version],
        ),
    }
}

fn show_hash(hash: &FileHash, output: Output) -> String {
    let FileHash { hash, hash_revision, compact_revision } = hash;
    match output {
        Output::Simple => format!("{hash}, {hash_revision}, {compact_revision}\n"),
        Output::Fields => format!(
            "\"Hash\" : {hash}\n\"Hash revision\" : {hash_revision}\n\"Compact revision\" : {compact_revision}\n"
        ),
        Output::Json => {
            let json = serde_json::json!({
                "hash": hash, "hashRevision": hash_revision, "compactRevision": compact_revision,
            });
            format!("{json}\n")
        }
        Output::Table => table(
            &["HASH", "HASH REVISION", "COMPACT REVISION"],
            &[&hash.to_string(), &hash_revision.to_string(), &compact_revision.to_string()],
        ),
    }
}

/// One row under its titles.
fn table(titles: &[&str], row: &[&str]) -> String {
    let widths: Vec<usize> =
        titles.iter().zip(row).map(|(title, cell)| title.len().max(cell.len())).collect();
    let line = format!("+{}\n", widths.iter().map(|width| "-".repeat(width + 2) + "+").collect::<String>());
    let cells = |cells: &[&str]| {
        let cells = cells.iter().zip(&widths).map(|(cell, width)| format!(" {cell:^width$} |"));
        format!("|{}\n", cells.collect::<String>())
    };
    format!("{line}{}{line}{}{line}", cells(titles), cells(row))
}

/// Bytes as upstream's tools print them: powers of a thousand, two digits.
fn human_bytes(bytes: u64) -> String {
    let (mut value, mut unit) = (bytes as f64, 0);
    while value >= 1000.0 && unit < 6 {
        value /= 1000.0;
        unit += 1;
    }
    let unit = ["B", "kB", "MB", "GB", "TB", "PB", "EB"][unit];
    if bytes < 10 {
        return format!("{bytes} B");
    }
    let value = (value * 10.0 + 0.5).floor() / 10.0;
    if value < 10.0 { format!("{value:.1} {unit}") } else { format!("{value:.0} {unit}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_printed_as_upstream_prints_them() {
        let sizes = [0, 9, 10, 999, 1000, 20_480, 1_234_567, 82_854_982];
        let shown = sizes.map(human_bytes);
        assert_eq!(shown, ["0 B", "9 B", "10 B", "999 B", "1.0 kB", "20 kB", "1.2 MB", "83 MB"]);
    }

    #[test]
    fn a_status_is_printed_in_every_form() {
        let status = FileStatus {
            hash: 0xcf35_3aa0,
            revision: 3,
            total_keys: 2,
            total_bytes: 20_480,
            version: "3.6.0".to_owned(),
        };
        assert_eq!(show_status(&status, Output::Simple), "cf353aa0, 3, 2, 20 kB, 3.6.0\n");
        let json = show_status(&status, Output::Json);
        assert!(json.contains(r#""totalKey":2"#) && json.contains(r#""totalSize":20480"#), "{json}");
        assert_eq!(
            show_status(&status, Output::Table),
            "+----------+----------+------------+------------+---------+\n\
             |   HASH   | REVISION | TOTAL KEYS | TOTAL SIZE | VERSION |\n\
             +----------+----------+------------+------------+---------+\n\
             | cf353aa0 |    3     |     2      |   20 kB    |  3.6.0  |\n\
             +----------+----------+------------+------------+---------+\n"
        );
    }
}
