//! Scripts with golden answers: every file of `testdata/`.
//!
//! A block is lines of commands, `----`, and what they answer, ended by an empty line. `UPDATE_EXPECT=1` writes the
//! answers anew.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod auth;

use std::fmt::Write;
use std::path::Path;

use expect_test::expect_file;
use isopod_kv::{
    AlarmRequest, CompactionRequest, Compare, DeleteRangeRequest, KeyValue, LeaseCheckpoint,
    LeaseCheckpointRequest, LeaseGrantRequest, LeaseRevokeRequest, PutRequest, RangeRequest, RequestOp,
    TxnRequest, compare,
};
use isopod_mvcc::{Applied, Caller, Command, Filters, KeyRange, Op, Reply, Restore, State, StoredRecord};

#[test]
fn scripts() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata");
    let mut files: Vec<_> = std::fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(!files.is_empty());
    for file in files {
        let script = std::fs::read_to_string(&file).unwrap();
        expect_file![file].assert_eq(&run(&script));
    }
}

/// The script with its answers replaced by those of this run.
fn run(script: &str) -> String {
    let mut world = World::default();
    let mut out = String::new();
    let mut answers = String::new();
    let mut in_answers = false;
    for line in script.lines() {
        match (in_answers, line) {
            (false, "----") => {
                let _ = writeln!(out, "----\n{answers}");
                answers.clear();
                in_answers = true;
            }
            (true, "") => in_answers = false,
            (true, _) => {}
            (false, line) => {
                out.push_str(line);
                out.push('\n');
                if !line.is_empty() && !line.starts_with('#') {
                    answers.push_str(&world.command(line));
                    answers.push('\n');
                }
            }
        }
    }
    out.trim_end().to_owned() + "\n"
}

#[derive(Default)]
struct World {
    state: State,
    /// On whose behalf the next command is given.
    caller: Option<Caller>,
}

/// `name=value` arguments and bare words of a command line.
struct Args<'a>(Vec<&'a str>);

impl<'a> Args<'a> {
    fn word(&self, position: usize) -> &'a str {
        self.0.iter().filter(|arg| !arg.contains('=')).nth(position).copied().unwrap_or("")
    }

    fn value(&self, name: &str) -> Option<&'a str> {
        self.0.iter().find_map(|arg| arg.strip_prefix(name)?.strip_prefix('='))
    }

    fn number(&self, name: &str) -> i64 {
        self.value(name).map_or(0, |value| value.parse().unwrap())
    }

    fn flag(&self, name: &str) -> bool {
        self.0.contains(&name)
    }
}

impl World {
    fn command(&mut self, line: &str) -> String {
        if let Some(rest) = line.strip_prefix("as ") {
            return self.command_as(rest);
        }
        let mut words = line.split_whitespace();
        let name = words.next().unwrap();
        let args = Args(words.collect());
        let number = || args.word(0).parse::<i64>().unwrap();
        match name {
            "put" => self.apply(Op::Put(put(&args))),
            "delete" => self.apply(Op::DeleteRange(delete(&args))),
            "txn" => self.apply(Op::Txn(txn(line.strip_prefix("txn").unwrap()))),
            "compact" => self.apply(Op::Compact(CompactionRequest { revision: number(), physical: false })),
            "grant" => {
                self.apply(Op::LeaseGrant(LeaseGrantRequest { id: number(), ttl: args.number("ttl") }))
            }
            "revoke" => self.apply(Op::LeaseRevoke(LeaseRevokeRequest { id: number() })),
            "checkpoint" => {
                let checkpoints = vec![LeaseCheckpoint { id: number(), remaining_ttl: args.number("left") }];
                self.apply(Op::LeaseCheckpoint(LeaseCheckpointRequest { checkpoints }))
            }
            "alarm" => {
                let action = if args.flag("off") { 2 } else { 1 };
                self.apply(Op::Alarm(AlarmRequest { action, member_id: 7, alarm: number() as i32 }))
            }
            "range" => match self.state.range(&range(&args)) {
                Ok(response) => {
                    let more = if response.more { " more" } else { "" };
                    format!("{} of {}{more}", kvs(&response.kvs), response.count)
                }
                Err(error) => error.to_string(),
            },
            "events" => self.events(&args),
            "leases" => {
                let lease = |(id, lease): (i64, &isopod_mvcc::Lease)| {
                    let keys: Vec<_> = lease.keys.iter().map(|key| text(key)).collect();
                    format!(
                        "{id}: ttl {} restart {} keys [{}]",
                        lease.ttl_s,
                        lease.restart_ttl_s(),
                        keys.join(" ")
                    )
                };
                self.state.leases().map(lease).collect::<Vec<_>>().join("\n")
            }
            "scrub" => {
                format!("more {}, {} bytes", self.state.scrub(number() as usize), self.state.size_bytes())
            }
            "restore" => self.restore(),
            "state" => format!(
                "revision {} compacted {} keys {} bytes {}",
                self.state.revision(),
                self.state.compacted_revision(),
                self.state.key_count(),
                self.state.size_bytes(),
            ),
            other => self.auth_command(other, &args),
        }
    }

    fn apply(&mut self, op: Op) -> String {
        let index = self.state.applied_index() + 1;
        let Applied { reply, changed } =
            self.state.apply(index, 1, Command { caller: self.caller.clone(), ..op.into() });
        let changed = changed.map(|revision| format!(" -> {revision}")).unwrap_or_default();
        let reply = match reply {
            Err(error) => return error.to_string(),
            Ok(Reply::Put(response)) => {
                response.prev_kv.map(|kv| format!("was {}", show(&kv))).unwrap_or_default()
            }
            Ok(Reply::DeleteRange(response)) => {
                format!("deleted {} {}", response.deleted, kvs(&response.prev_kvs))
            }
            Ok(Reply::Txn(response)) => format!("{} {}", response.succeeded, response.responses.len()),
            Ok(Reply::LeaseGrant(response)) => format!("lease {} ttl {}", response.id, response.ttl),
            Ok(Reply::Alarm(response)) => format!("alarms {}", response.alarms.len()),
            Ok(Reply::Authenticate(session)) => format!("{} since {}", session.token, session.since),
            Ok(_) => String::new(),
        };
        format!("ok {reply}{changed}").split_whitespace().collect::<Vec<_>>().join(" ")
    }

    fn events(&self, args: &Args<'_>) -> String {
        let request = range(args);
        let range = KeyRange { key: request.key, range_end: request.range_end };
        let filters = Filters {
            no_put: args.flag("noput"),
            no_delete: args.flag("nodelete"),
            prev_kv: args.flag("prev"),
        };
        let max = match args.number("max") {
            0 => usize::MAX,
            max => max as usize,
        };
        match self.state.events(&range, filters, args.number("from"), max, usize::MAX) {
            Err(compacted) => format!("compacted at {compacted}"),
            Ok(batch) => {
                let mut lines = Vec::new();
                for event in &batch.events {
                    let kind = if event.r#type == 0 { "put" } else { "delete" };
                    let was =
                        event.prev_kv.as_ref().map(|kv| format!(" was {}", show(kv))).unwrap_or_default();
                    lines.push(format!("{kind} {}{was}", show(event.kv.as_ref().unwrap())));
                }
                lines.push(format!("next {}", batch.next_revision));
                lines.join("\n")
            }
        }
    }

    /// Replaces the state by its own snapshot, read one key at a time.
    fn restore(&mut self) -> String {
        let mut cursor = self.state.begin_snapshot();
        let mut restore = Restore::new(cursor.header().clone());
        while let Some(records) = cursor.next(&self.state, 1) {
            for record in records {
                assert!(restore.push(StoredRecord::from(&*record)));
            }
        }
        self.state.end_snapshot(cursor);
        let restored = restore.finish();
        let same = restored.hash(0) == self.state.hash(0)
            && restored.key_count() == self.state.key_count()
            && restored.leases().eq(self.state.leases())
            && restored.alarms() == self.state.alarms()
            && restored.auth().to_stored() == self.state.auth().to_stored();
        self.state = restored;
        format!("same {same}")
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn show(kv: &KeyValue) -> String {
    let lease = if kv.lease == 0 { String::new() } else { format!(" lease {}", kv.lease) };
    let (create, modified, version) = (kv.create_revision, kv.mod_revision, kv.version);
    format!("{}={} [{create} {modified} v{version}{lease}]", text(&kv.key), text(&kv.value))
}

fn kvs(kvs: &[KeyValue]) -> String {
    kvs.iter().map(show).collect::<Vec<_>>().join(", ")
}

fn put(args: &Args<'_>) -> PutRequest {
    PutRequest {
        lease: args.number("lease"),
        prev_kv: args.flag("prev"),
        ignore_value: args.flag("keepvalue"),
        ignore_lease: args.flag("keeplease"),
        ..PutRequest::new(args.word(0).to_owned(), args.word(1).to_owned())
    }
}

fn delete(args: &Args<'_>) -> DeleteRangeRequest {
    let range = range(args);
    DeleteRangeRequest { key: range.key, range_end: range.range_end, prev_kv: args.flag("prev") }
}

/// `a` is one key, `a*` a prefix, `a..c` a half-open range, `a..` everything from `a`.
fn range(args: &Args<'_>) -> RangeRequest {
    let word = args.word(0);
    let (key, range_end) = if let Some(prefix) = word.strip_suffix('*') {
        let request = RangeRequest::prefix(prefix.to_owned());
        (request.key, request.range_end)
    } else if let Some((start, end)) = word.split_once("..") {
        let end = if end.is_empty() { "\0" } else { end };
        (start.to_owned().into(), end.to_owned().into())
    } else {
        (word.to_owned().into(), Default::default())
    };
    RangeRequest {
        key,
        range_end,
        revision: args.number("rev"),
        limit: args.number("limit"),
        count_only: args.flag("count"),
        ..Default::default()
    }
}

/// `if KEY REVISION then OPS else OPS`, operations separated by `;`.
fn txn(line: &str) -> TxnRequest {
    let (guards, rest) = line.split_once("then").unwrap();
    let (success, failure) = rest.split_once("else").unwrap_or((rest, ""));
    let words: Vec<&str> = guards.split_whitespace().filter(|word| *word != "if").collect();
    let guard = |pair: &[&str]| Compare {
        result: compare::CompareResult::Equal as i32,
        ..Compare::mod_revision_is(pair[0].to_owned(), pair[1].parse().unwrap())
    };
    let ops = |text: &str| -> Vec<RequestOp> {
        let op = |op: &str| {
            let mut words = op.split_whitespace();
            let name = words.next().unwrap();
            let args = Args(words.collect());
            match name {
                "put" => put(&args).into(),
                "delete" => delete(&args).into(),
                "range" => range(&args).into(),
                other => panic!("unknown operation {other}"),
            }
        };
        text.split(';').filter(|text| !text.trim().is_empty()).map(op).collect()
    };
    TxnRequest::new(words.chunks(2).map(guard).collect(), ops(success), ops(failure))
}
