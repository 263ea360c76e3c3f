//! Requests of any content: whatever decodes and is valid can be applied, and the state stays whole.
#![no_main]

use isopod_kv::{DeleteRangeRequest, PutRequest, RangeRequest, TxnRequest};
use isopod_mvcc::{
    Caller, Command, Op, State, validate_delete_range, validate_put, validate_range, validate_txn,
};
use libfuzzer_sys::fuzz_target;
use prost::Message;

/// Operations of a transaction, as the server's default.
const MAX_OPS: usize = 128;

fuzz_target!(|data: &[u8]| {
    let mut state = State::default();
    let caller = Some(Caller { user: "u".to_owned(), revision: 1 });
    // Parts of the input are requests: a length, then the message.
    let mut rest = data;
    while let [kind, length, tail @ ..] = rest {
        let (message, tail) = tail.split_at(usize::from(*length).min(tail.len()));
        rest = tail;
        let op = match kind % 5 {
            0 => PutRequest::decode(message).ok().filter(|put| validate_put(put).is_ok()).map(Op::Put),
            1 => DeleteRangeRequest::decode(message)
                .ok()
                .filter(|delete| validate_delete_range(delete).is_ok())
                .map(Op::DeleteRange),
            2 => {
                TxnRequest::decode(message).ok().filter(|txn| validate_txn(txn, MAX_OPS).is_ok()).map(Op::Txn)
            }
            3 => Command::decode(message).ok().and_then(|command| command.op),
            _ => {
                if let Ok(range) = RangeRequest::decode(message)
                    && validate_range(&range).is_ok()
                {
                    let _ = state.range(&range);
                }
                continue;
            }
        };
        let Some(op) = op else { continue };
        let index = state.applied_index() + 1;
        let _ = state.apply(index, 1, Command { caller: caller.clone(), ..op.into() });
        let _ = state.hash(0);
    }
    while state.scrub(10) {}
});
