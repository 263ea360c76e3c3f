//! Clusters under every fault there is, one for each seed; and proof that the checkers would find something.

use isopod_sim::world::{Options, Report, Sabotage, members_of_seed, run};

/// Seeds of one test run. Code that is not optimised is some twenty times slower.
const SEEDS: u64 = if cfg!(debug_assertions) { 30 } else { 1000 };
/// Threads that share them.
const JOBS: u64 = 2;
/// Within so many seeds a fault put in on purpose has to be found.
const SEEDS_TO_CATCH: u64 = 40;

fn options(seed: u64) -> Options {
    Options::new(seed, members_of_seed(seed))
}

fn assert_well(seed: u64, report: &Report) {
    let lines: Vec<String> = report.violations.iter().map(ToString::to_string).collect();
    assert!(
        lines.is_empty(),
        "seed {seed}: replay with `cargo run --release -p isopod-sim -- --seeds 1 --from {seed}`\n{}",
        lines.join("\n")
    );
}

#[test]
fn every_seed_keeps_every_promise() {
    std::thread::scope(|scope| {
        for job in 0..JOBS {
            scope.spawn(move || {
                for seed in (job..SEEDS).step_by(JOBS as usize) {
                    // Printed with the test's output if the run panics.
                    println!("seed {seed}");
                    assert_well(seed, &run(&options(seed)));
                }
            });
        }
    });
}

#[test]
fn a_seed_is_one_exact_run() {
    for seed in [3, 4, 5] {
        let (first, second) = (run(&options(seed)), run(&options(seed)));
        assert_eq!(first.trace, second.trace, "seed {seed}");
        assert_eq!(first.stats, second.stats, "seed {seed}");
        assert!(first.stats.answered > 50, "seed {seed}: {:?}", first.stats);
    }
    assert_ne!(run(&options(3)).trace, run(&options(5)).trace);
}

/// Runs seeds until somebody who sees no more than clients do finds the fault, and says so in these words.
fn caught(sabotage: Sabotage, words: &[&str]) {
    for seed in 0..SEEDS_TO_CATCH {
        let options = Options { sabotage: Some(sabotage), only_clients: true, ..Options::new(seed, 3) };
        let found = run(&options).violations.iter().any(|violation| {
            let text = violation.to_string();
            words.iter().any(|words| text.contains(words))
        });
        if found {
            return;
        }
    }
    panic!("{sabotage:?} was not found in {SEEDS_TO_CATCH} seeds");
}

#[test]
fn an_answer_before_the_sync_is_caught() {
    // A log that was not synced is torn in places where no crash of an honest member tears it.
    caught(Sabotage::NoSync, &["does not start", "lost: "]);
}

#[test]
fn a_disk_that_forgets_is_caught() {
    caught(Sabotage::LyingDisks, &["lost: "]);
}

#[test]
fn a_stale_read_is_caught() {
    caught(Sabotage::StaleReads, &["is of the past"]);
}

#[test]
fn a_skipped_event_is_caught() {
    caught(Sabotage::SkippedEvents, &["watch of "]);
}

#[test]
fn a_lost_vote_is_caught() {
    caught(Sabotage::LostVote, &["lost: ", "is of the past", "wrong answer: "]);
}
