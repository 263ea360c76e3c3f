//! `isopod-sim`: runs seeds, prints what fails and how to replay it.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use clap::Parser;
use isopod_sim::world::{Options, Sabotage, Stats, members_of_seed, run};

/// Simulates clusters of isopod's etcd, one for each seed, and judges them.
#[derive(Parser)]
#[command(name = "isopod-sim")]
struct Args {
    /// How many seeds to run.
    #[arg(long, default_value_t = 1000)]
    seeds: u64,
    /// The first seed.
    #[arg(long, default_value_t = 0)]
    from: u64,
    /// Members of every cluster; without, the seed decides on 1, 3 or 5.
    #[arg(long)]
    members: Option<usize>,
    /// Threads.
    #[arg(long, default_value_t = 2)]
    jobs: usize,
    /// A fault put in on purpose, to be found: no-sync, lying-disks, stale-reads, skipped-events or lost-vote.
    #[arg(long, value_parser = sabotage)]
    sabotage: Option<Sabotage>,
    /// Judge by what clients saw alone.
    #[arg(long)]
    only_clients: bool,
    /// Print the trace of every seed.
    #[arg(long)]
    verbose: bool,
}

fn sabotage(name: &str) -> Result<Sabotage, String> {
    Ok(match name {
        "no-sync" => Sabotage::NoSync,
        "lying-disks" => Sabotage::LyingDisks,
        "stale-reads" => Sabotage::StaleReads,
        "skipped-events" => Sabotage::SkippedEvents,
        "lost-vote" => Sabotage::LostVote,
        _ => return Err("no such fault".to_owned()),
    })
}

fn main() -> ExitCode {
    let args = Args::parse();
    let began = Instant::now();
    let (next, failed) = (AtomicU64::new(args.from), AtomicU64::new(0));
    let total = Mutex::new(Stats::default());
    std::thread::scope(|scope| {
        for _ in 0..args.jobs.max(1) {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= args.from.saturating_add(args.seeds) {
                        return;
                    }
                    match one(&args, seed) {
                        Some(stats) => total.lock().expect("no thread panics with it").add(&stats),
                        None => drop(failed.fetch_add(1, Ordering::Relaxed)),
                    }
                }
            });
        }
    });
    let failed = failed.into_inner();
    println!("{} seeds in {:.1} s, {failed} failed", args.seeds, began.elapsed().as_secs_f64());
    println!("{:#?}", total.into_inner().expect("all threads have ended"));
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Runs one seed; its numbers, unless it failed.
fn one(args: &Args, seed: u64) -> Option<Stats> {
    let members = args.members.unwrap_or_else(|| members_of_seed(seed));
    let options =
        Options { sabotage: args.sabotage, only_clients: args.only_clients, ..Options::new(seed, members) };
    let began = Instant::now();
    let replay = format!("cargo run --release -p isopod-sim -- --seeds 1 --from {seed} --members {members}");
    match catch_unwind(AssertUnwindSafe(|| run(&options))) {
        Ok(report) => {
            if args.verbose {
                let ms = began.elapsed().as_millis();
                println!("seed {seed}: trace {:016x}, {ms} ms, {:?}", report.trace, report.stats);
            }
            if report.violations.is_empty() {
                return Some(report.stats);
            }
            println!("seed {seed} ({members} members): {} violations; {replay}", report.violations.len());
            report.violations.iter().take(5).for_each(|violation| println!("  {violation}"));
            if args.verbose {
                report.last.iter().for_each(|line| println!("  {line}"));
            }
        }
        // The panic has printed its message.
        Err(_) => println!("seed {seed} ({members} members) panicked; {replay}"),
    }
    None
}
