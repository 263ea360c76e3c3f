//! What every store must do, as a transcript of questions and answers on a fresh store.
//!
//! The transcript has no place for interpretation: revisions, versions, counts, order and error texts must be the
//! same wherever it is recorded.

use std::fmt::Write;
use std::time::Duration;

use futures::StreamExt;
use isopod_kv::compare::{CompareResult, CompareTarget, TargetUnion};
use isopod_kv::range_request::{SortOrder, SortTarget};
use isopod_kv::{
    Compare, DeleteRangeRequest, Error, Event, KeyValue, LeaseGrantRequest, LeaseTimeToLiveRequest,
    PutRequest, RangeRequest, RequestOp, ResponseOp, Store, TxnRequest, WatchCreateRequest, WatchStream,
    response_op,
};

/// Far beyond what any answer takes; a missing event fails the test instead of hanging it.
const PATIENCE: Duration = Duration::from_secs(20);

/// Asks everything; what was asked and answered.
pub(crate) async fn transcript(store: &dyn Store) -> String {
    let mut run = Run { store, out: String::new() };
    run.puts().await;
    run.ranges().await;
    run.deletes().await;
    run.transactions().await;
    run.bad_requests().await;
    run.leases().await;
    run.watches().await;
    run.compaction().await;
    run.out
}

struct Run<'a> {
    store: &'a dyn Store,
    out: String,
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn kv(kv: &KeyValue) -> String {
    let KeyValue { key, value, create_revision, mod_revision, version, lease } = kv;
    let lease = if *lease == 0 { String::new() } else { format!(" lease {lease}") };
    format!("{}={} [{create_revision} {mod_revision} v{version}{lease}]", text(key), text(value))
}

fn event(event: &Event) -> String {
    let kind = if event.r#type == 0 { "put" } else { "delete" };
    let mut line = format!("{kind} {}", event.kv.as_ref().map(kv).unwrap_or_default());
    if let Some(previous) = &event.prev_kv {
        let _ = write!(line, " was {}", kv(previous));
    }
    line
}

fn responses(ops: &[ResponseOp]) -> String {
    let one = |op: &ResponseOp| match &op.response {
        Some(response_op::Response::ResponsePut(put)) => {
            format!(
                "put{}",
                put.prev_kv.as_ref().map(|previous| format!(" was {}", kv(previous))).unwrap_or_default()
            )
        }
        Some(response_op::Response::ResponseRange(range)) => {
            format!("range {} of {}", range.kvs.iter().map(kv).collect::<Vec<_>>().join(", "), range.count)
        }
        Some(response_op::Response::ResponseDeleteRange(delete)) => format!("deleted {}", delete.deleted),
        Some(response_op::Response::ResponseTxn(txn)) => {
            format!("txn {} ({})", txn.succeeded, responses(&txn.responses))
        }
        None => "none".to_owned(),
    };
    ops.iter().map(one).collect::<Vec<_>>().join("; ")
}

impl Run<'_> {
    fn title(&mut self, title: &str) {
        let _ = writeln!(self.out, "\n# {title}");
    }

    fn line(&mut self, question: &str, answer: Result<String, Error>) {
        let answer = answer.unwrap_or_else(|error| format!("{:?}: {error}", error.code()));
        let _ = writeln!(self.out, "{question}\n    {answer}");
    }

    async fn put(&mut self, request: PutRequest) {
        let mut question = format!("put {}={}", text(&request.key), text(&request.value));
        if request.lease != 0 {
            let _ = write!(question, " lease {}", request.lease);
        }
        for (flag, name) in [
            (request.prev_kv, " prev_kv"),
            (request.ignore_value, " ignore_value"),
            (request.ignore_lease, " ignore_lease"),
        ] {
            question.push_str(if flag { name } else { "" });
        }
        let answer = self.store.put(request).await.map(|response| {
            let previous = response.prev_kv.as_ref().map(|previous| format!(" was {}", kv(previous)));
            format!(
                "revision {}{}",
                response.header.expect("a header").revision,
                previous.unwrap_or_default()
            )
        });
        self.line(&question, answer);
    }

    async fn range(&mut self, question: &str, request: RangeRequest) {
        let answer = self.store.range(request).await.map(|response| {
            let kvs: Vec<String> = response.kvs.iter().map(kv).collect();
            let more = if response.more { " more" } else { "" };
            let revision = response.header.expect("a header").revision;
            format!("revision {revision} count {}{more}: {}", response.count, kvs.join(", "))
                .trim_end()
                .to_owned()
        });
        self.line(&format!("range {question}"), answer);
    }

    async fn delete(&mut self, question: &str, request: DeleteRangeRequest) {
        let answer = self.store.delete_range(request).await.map(|response| {
            let previous: Vec<String> = response.prev_kvs.iter().map(kv).collect();
            let revision = response.header.expect("a header").revision;
            format!("revision {revision} deleted {}: {}", response.deleted, previous.join(", "))
                .trim_end_matches([' ', ':'])
                .to_owned()
        });
        self.line(&format!("delete {question}"), answer);
    }

    async fn txn(&mut self, question: &str, request: TxnRequest) {
        let answer = self.store.txn(request).await.map(|response| {
            let revision = response.header.expect("a header").revision;
            format!("revision {revision} {}: {}", response.succeeded, responses(&response.responses))
                .trim_end_matches([' ', ':'])
                .to_owned()
        });
        self.line(&format!("txn {question}"), answer);
    }

    async fn puts(&mut self) {
        self.title("put");
        self.range("a on an empty store", RangeRequest::key("a")).await;
        self.put(PutRequest::new("a", "1")).await;
        self.put(PutRequest { prev_kv: true, ..PutRequest::new("a", "2") }).await;
        self.put(PutRequest { prev_kv: true, ..PutRequest::new("b", "") }).await;
        self.put(PutRequest { ignore_value: true, ..PutRequest::new("a", "") }).await;
        self.put(PutRequest { ignore_lease: true, ..PutRequest::new("a", "3") }).await;
        self.range("a", RangeRequest::key("a")).await;
        for revision in [1, 2, 3, 4, 5, 6] {
            self.range(&format!("a at {revision}"), RangeRequest { revision, ..RangeRequest::key("a") })
                .await;
        }
        self.range("a at 7", RangeRequest { revision: 7, ..RangeRequest::key("a") }).await;
    }

    async fn ranges(&mut self) {
        self.title("range");
        for (key, value) in [("r/1", "z"), ("r/2", "y"), ("r/3", "x"), ("r/2", "w"), ("r/4", "y"), ("s", "-")]
        {
            self.put(PutRequest::new(key, value)).await;
        }
        let all = || RangeRequest::prefix("r/");
        self.range("r/ (prefix)", all()).await;
        for limit in [1, 3, 4, 5] {
            self.range(&format!("r/ limit {limit}"), RangeRequest { limit, ..all() }).await;
        }
        self.range("r/ keys only", RangeRequest { keys_only: true, ..all() }).await;
        self.range("r/ count only", RangeRequest { count_only: true, ..all() }).await;
        self.range("r/ count only limit 2", RangeRequest { count_only: true, limit: 2, ..all() }).await;
        self.range("r/ at 9", RangeRequest { revision: 9, ..all() }).await;
        self.range("from r/3", RangeRequest { range_end: vec![0].into(), ..RangeRequest::key("r/3") }).await;
        self.range("[r/2, r/4)", RangeRequest { range_end: "r/4".into(), ..RangeRequest::key("r/2") }).await;
        self.range("[r/4, r/2)", RangeRequest { range_end: "r/2".into(), ..RangeRequest::key("r/4") }).await;
        self.range("everything", RangeRequest::prefix("")).await;
        for target in
            [SortTarget::Key, SortTarget::Version, SortTarget::Create, SortTarget::Mod, SortTarget::Value]
        {
            for order in [SortOrder::None, SortOrder::Ascend, SortOrder::Descend] {
                let request =
                    RangeRequest { sort_order: order as i32, sort_target: target as i32, limit: 3, ..all() };
                self.range(&format!("r/ by {target:?} {order:?} limit 3"), request).await;
            }
        }
        self.range("r/ modified from 9", RangeRequest { min_mod_revision: 9, ..all() }).await;
        self.range("r/ modified to 9", RangeRequest { max_mod_revision: 9, ..all() }).await;
        self.range("r/ created from 9", RangeRequest { min_create_revision: 9, limit: 1, ..all() }).await;
        self.range("r/ created to 8 limit 1", RangeRequest { max_create_revision: 8, limit: 1, ..all() })
            .await;
    }

    async fn deletes(&mut self) {
        self.title("delete");
        for key in ["d/1", "d/2", "d/3"] {
            self.put(PutRequest::new(key, "x")).await;
        }
        self.delete("d/1", DeleteRangeRequest::key("d/1")).await;
        self.delete("d/1 again", DeleteRangeRequest::key("d/1")).await;
        self.delete(
            "d/ (prefix) prev_kv",
            DeleteRangeRequest { prev_kv: true, ..DeleteRangeRequest::prefix("d/") },
        )
        .await;
        self.range("d/ (prefix)", RangeRequest::prefix("d/")).await;
        self.put(PutRequest { prev_kv: true, ..PutRequest::new("d/1", "again") }).await;
        self.range("d/1", RangeRequest::key("d/1")).await;
    }

    async fn transactions(&mut self) {
        self.title("txn");
        self.put(PutRequest::new("t", "5")).await;
        self.put(PutRequest::new("t", "5")).await;
        let revision = self.store.range(RangeRequest::key("t")).await.expect("a range").kvs[0].mod_revision;
        let targets = [
            (CompareTarget::Version, TargetUnion::Version(2)),
            (CompareTarget::Create, TargetUnion::CreateRevision(revision - 1)),
            (CompareTarget::Mod, TargetUnion::ModRevision(revision)),
            (CompareTarget::Value, TargetUnion::Value("5".into())),
            (CompareTarget::Lease, TargetUnion::Lease(0)),
        ];
        for (target, union) in targets {
            for key in ["t", "absent"] {
                let mut held = Vec::new();
                for result in [
                    CompareResult::Equal,
                    CompareResult::NotEqual,
                    CompareResult::Greater,
                    CompareResult::Less,
                ] {
                    let compare = compare(key, target, result, union.clone());
                    let response = self.store.txn(TxnRequest::new(vec![compare], vec![], vec![])).await;
                    if response.expect("a transaction").succeeded {
                        held.push(format!("{result:?}"));
                    }
                }
                self.line(&format!("compare {target:?} of {key} with {union:?}"), Ok(held.join(" ")));
            }
        }
        let read = || RequestOp::from(RangeRequest::key("t"));
        let write = |value: &str| {
            RequestOp::from(PutRequest { prev_kv: true, ..PutRequest::new("t", value.to_owned()) })
        };
        self.txn("read, write, read", TxnRequest::new(vec![], vec![read(), write("6"), read()], vec![]))
            .await;
        let guard = compare("t", CompareTarget::Value, CompareResult::Equal, TargetUnion::Value("6".into()));
        let branches = || TxnRequest::new(vec![guard.clone()], vec![write("yes")], vec![write("no")]);
        self.txn("if 6 then yes else no", branches()).await;
        self.txn("if 6 then yes else no, again", branches()).await;
        let inner = TxnRequest::new(vec![guard.clone()], vec![], vec![write("nested"), read()]);
        let other = RequestOp::from(PutRequest::new("t2", "x"));
        self.txn("nested", TxnRequest::new(vec![], vec![other, inner.into()], vec![])).await;
        let delete = RequestOp::from(DeleteRangeRequest::prefix("t"));
        self.txn("delete all", TxnRequest::new(vec![], vec![delete.clone()], vec![])).await;
        self.txn("delete nothing", TxnRequest::new(vec![], vec![delete, read()], vec![])).await;
        self.txn("nothing at all", TxnRequest::default()).await;
        let many = Compare {
            range_end: "s".into(),
            ..compare("r/", CompareTarget::Create, CompareResult::Greater, TargetUnion::CreateRevision(6))
        };
        self.txn("compare a range", TxnRequest::new(vec![many], vec![], vec![])).await;
        let past = RequestOp::from(RangeRequest { revision: 2, ..RangeRequest::key("a") });
        let put = RequestOp::from(PutRequest::new("t3", "x"));
        self.txn("write, and read the past", TxnRequest::new(vec![], vec![put, past], vec![])).await;
    }

    async fn bad_requests(&mut self) {
        self.title("bad requests");
        self.range("(no key)", RangeRequest::default()).await;
        self.put(PutRequest::default()).await;
        self.delete("(no key)", DeleteRangeRequest::default()).await;
        self.put(PutRequest { ignore_value: true, ..PutRequest::new("missing", "") }).await;
        self.put(PutRequest { ignore_value: true, ..PutRequest::new("a", "x") }).await;
        self.put(PutRequest { ignore_lease: true, lease: 5, ..PutRequest::new("a", "x") }).await;
        self.put(PutRequest { lease: 404, ..PutRequest::new("a", "x") }).await;
        let put = |key: &str| RequestOp::from(PutRequest::new(key.to_owned(), "x"));
        let delete = |key: &str| RequestOp::from(DeleteRangeRequest::prefix(key.to_owned()));
        let txn = |ops: Vec<RequestOp>| TxnRequest::new(vec![], ops, vec![]);
        self.txn("put twice", txn(vec![put("k"), put("k")])).await;
        self.txn("put and delete", txn(vec![put("k1"), delete("k")])).await;
        self.txn("delete twice", txn(vec![delete("k"), delete("k1")])).await;
        let branches = TxnRequest::new(vec![], vec![put("k")], vec![put("k")]);
        self.txn("put in both branches", branches.clone()).await;
        self.txn("put beside nested put", txn(vec![put("k"), branches.into()])).await;
        self.txn("no key", txn(vec![put("")])).await;
        self.txn("an empty operation", txn(vec![RequestOp::default()])).await;
        self.txn("too many", txn((0..129).map(|n| put(&format!("k{n}"))).collect())).await;
        let lease = RequestOp::from(PutRequest { lease: 404, ..PutRequest::new("k2", "x") });
        self.txn("a lease that does not exist", txn(vec![put("k1"), lease])).await;
        self.range("k1", RangeRequest::key("k1")).await;
        let future = RequestOp::from(RangeRequest { revision: 1_000_000, ..RangeRequest::key("a") });
        self.txn("a future revision", txn(vec![put("k1"), future])).await;
    }

    async fn leases(&mut self) {
        self.title("lease");
        for (id, ttl) in [(71, 100), (71, 100), (72, 1), (73, 9_000_000_001)] {
            let answer = self.store.lease_grant(LeaseGrantRequest { ttl, id }).await;
            self.line(&format!("grant {id} for {ttl}"), answer.map(|r| format!("id {} ttl {}", r.id, r.ttl)));
        }
        self.put(PutRequest { lease: 71, ..PutRequest::new("l/2", "x") }).await;
        self.put(PutRequest { lease: 71, ..PutRequest::new("l/1", "x") }).await;
        self.put(PutRequest { lease: 71, ..PutRequest::new("l/3", "x") }).await;
        self.put(PutRequest::new("l/3", "detached")).await;
        self.put(PutRequest { ignore_lease: true, ..PutRequest::new("l/1", "y") }).await;
        for id in [71, 404] {
            let answer = self.store.lease_time_to_live(LeaseTimeToLiveRequest { id, keys: true }).await;
            let answer = answer.map(|response| {
                let mut keys: Vec<String> = response.keys.iter().map(|key| text(key)).collect();
                keys.sort();
                let ttl = if response.ttl > 90 { "nearly all".to_owned() } else { response.ttl.to_string() };
                format!("granted {} left {ttl} keys {}", response.granted_ttl, keys.join(" "))
                    .trim_end()
                    .to_owned()
            });
            self.line(&format!("time to live {id}"), answer);
        }
        for id in [71, 404] {
            let answer =
                self.store.lease_keep_alive(id).await.map(|response| format!("ttl {}", response.ttl));
            self.line(&format!("keep alive {id}"), answer);
        }
        self.range("l/ (prefix)", RangeRequest::prefix("l/")).await;
        for id in [71, 71] {
            let answer = self.store.lease_revoke(id).await.map(|()| "done".to_owned());
            self.line(&format!("revoke {id}"), answer);
        }
        self.range("l/ (prefix)", RangeRequest::prefix("l/")).await;
        let mut watch = self.watch("l/3", WatchCreateRequest::key("l/3", 0)).await;
        self.store.lease_grant(LeaseGrantRequest { ttl: 2, id: 74 }).await.expect("a grant");
        self.put(PutRequest { lease: 74, ..PutRequest::new("l/3", "short") }).await;
        self.events("put, then expiry", &mut watch, 2).await;
        self.range("l/3", RangeRequest::key("l/3")).await;
    }

    async fn watch(&mut self, question: &str, request: WatchCreateRequest) -> WatchStream {
        let watch = self.store.watch(request).await.expect("a watch");
        self.line(&format!("watch {question}"), Ok(format!("created at {}", watch.created_revision())));
        watch
    }

    /// Reads that many events. Where responses end is up to the store, except within a revision.
    async fn events(&mut self, question: &str, watch: &mut WatchStream, count: usize) {
        let mut events = Vec::new();
        while events.len() < count {
            match tokio::time::timeout(PATIENCE, watch.next()).await.expect("an event in time") {
                Some(Ok(response)) => events.extend(response.events.iter().map(event)),
                Some(Err(error)) => {
                    events.push(format!("ended: {error} (compacted at {})", watch.compact_revision()));
                    break;
                }
                None => panic!("the watch ended without an error"),
            }
        }
        self.line(&format!("events: {question}"), Ok(events.join("\n    ")));
    }

    async fn watches(&mut self) {
        self.title("watch");
        let mut now = self.watch("w/ from now", WatchCreateRequest::prefix("w/", 0)).await;
        let start = now.created_revision();
        let mut plain = self
            .watch(
                "w/1 with prev_kv",
                WatchCreateRequest { prev_kv: true, ..WatchCreateRequest::key("w/1", 0) },
            )
            .await;
        self.put(PutRequest::new("w/1", "1")).await;
        self.put(PutRequest::new("x", "not watched")).await;
        self.put(PutRequest::new("w/1", "2")).await;
        let ops = vec![
            RequestOp::from(PutRequest::new("w/2", "in a txn")),
            DeleteRangeRequest::key("w/1").into(),
            PutRequest::new("w/3", "in a txn").into(),
        ];
        self.txn("three changes", TxnRequest::new(vec![], ops, vec![])).await;
        self.events("w/ from now", &mut now, 5).await;
        self.events("w/1 with prev_kv", &mut plain, 3).await;
        let mut past = self.watch("w/ from the past", WatchCreateRequest::prefix("w/", start + 1)).await;
        self.events("w/ from the past", &mut past, 5).await;
        for (name, filter) in [("no puts", 0), ("no deletes", 1)] {
            let request =
                WatchCreateRequest { filters: vec![filter], ..WatchCreateRequest::prefix("w/", start + 1) };
            let mut watch = self.watch(&format!("w/ {name}"), request).await;
            self.events(name, &mut watch, if filter == 0 { 1 } else { 4 }).await;
        }
        let revision =
            self.store.range(RangeRequest::key("w/1")).await.expect("a range").header.expect("one").revision;
        let mut future =
            self.watch("w/ two revisions ahead", WatchCreateRequest::prefix("w/", revision + 2)).await;
        self.put(PutRequest::new("w/1", "too early")).await;
        self.put(PutRequest::new("w/1", "in time")).await;
        self.events("w/ two revisions ahead", &mut future, 1).await;
        self.events("w/ from now, the rest", &mut now, 2).await;
        now.request_progress();
        let response = tokio::time::timeout(PATIENCE, now.next()).await.expect("progress in time");
        let response = response.expect("a response").expect("no error");
        let revision = response.header.expect("a header").revision;
        self.line("progress", Ok(format!("{} events up to {revision}", response.events.len())));
        let mut everything = self
            .watch(
                "everything",
                WatchCreateRequest {
                    range_end: vec![0].into(),
                    start_revision: revision,
                    ..Default::default()
                },
            )
            .await;
        self.events("everything", &mut everything, 1).await;
    }

    async fn compaction(&mut self) {
        self.title("compaction");
        self.put(PutRequest::new("c", "1")).await;
        self.put(PutRequest::new("c", "2")).await;
        self.delete("x", DeleteRangeRequest::key("x")).await;
        self.put(PutRequest::new("c", "3")).await;
        let current = self.store.range(RangeRequest::key("c")).await.expect("a range").kvs[0].mod_revision;
        for revision in [current + 1, current - 1, current - 1, current - 2] {
            let answer = self.store.compact(revision).await.map(|()| "done".to_owned());
            self.line(&format!("compact {revision}"), answer);
        }
        for revision in [current - 2, current - 1, current, 0] {
            let request = RangeRequest { revision, ..RangeRequest::key("c") };
            self.range(&format!("c at {revision}"), request).await;
        }
        let put = RequestOp::from(PutRequest::new("k1", "x"));
        let old = RequestOp::from(RangeRequest { revision: 2, ..RangeRequest::key("a") });
        self.txn("read what is compacted", TxnRequest::new(vec![], vec![put, old], vec![])).await;
        let mut watch = self.watch("c from 2", WatchCreateRequest::key("c", 2)).await;
        self.events("c from 2", &mut watch, 1).await;
        let request = WatchCreateRequest { prev_kv: true, ..WatchCreateRequest::key("c", current) };
        let mut watch = self.watch("c from the last write", request).await;
        self.events("c from the last write", &mut watch, 1).await;
        self.range("everything", RangeRequest { keys_only: true, ..RangeRequest::prefix("") }).await;
    }
}

fn compare(key: &str, target: CompareTarget, result: CompareResult, union: TargetUnion) -> Compare {
    Compare {
        result: result as i32,
        target: target as i32,
        key: key.to_owned().into(),
        target_union: Some(union),
        range_end: Default::default(),
    }
}
