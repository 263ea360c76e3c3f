//! Writes: put, delete, transaction.
//!
//! A transaction checks everything that can fail before it changes anything, so that it takes effect whole or not
//! at all. Reads inside it see its own earlier writes.

use std::sync::Arc;

use bytes::Bytes;
use isopod_kv::request_op::Request;
use isopod_kv::response_op::Response;
use isopod_kv::{
    DeleteRangeRequest, DeleteRangeResponse, Error, KeyValue, PutRequest, PutResponse, RangeRequest,
    RequestOp, ResponseHeader, ResponseOp, TxnRequest, TxnResponse,
};

use crate::history::{History, Record};
use crate::range::bounds;
use crate::state::State;

/// The revision being made.
pub(crate) struct Writer {
    main: i64,
    sub: u32,
}

impl Writer {
    /// The revision that answers report: the new one once something has changed.
    fn revision(&self) -> i64 {
        if self.sub == 0 { self.main - 1 } else { self.main }
    }

    fn header(&self) -> Option<ResponseHeader> {
        Some(ResponseHeader { revision: self.revision(), ..Default::default() })
    }
}

impl State {
    pub(crate) fn writer(&self) -> Writer {
        Writer { main: self.revision + 1, sub: 0 }
    }

    pub(crate) fn finish(&mut self, writer: &Writer) {
        self.revision = writer.revision();
    }

    pub(crate) fn put(&mut self, request: PutRequest) -> Result<PutResponse, Error> {
        self.check_put(&request)?;
        let mut writer = self.writer();
        let response = self.write_put(&mut writer, request);
        self.finish(&writer);
        Ok(response)
    }

    pub(crate) fn delete_range(&mut self, request: &DeleteRangeRequest) -> DeleteRangeResponse {
        let mut writer = self.writer();
        let response = self.write_delete(&mut writer, request);
        self.finish(&writer);
        response
    }

    pub(crate) fn txn(&mut self, request: TxnRequest) -> Result<TxnResponse, Error> {
        let mut path = Vec::new();
        self.choose(&request, &mut path);
        self.check_ops(&request, &mut path.iter().copied())?;
        let mut writer = self.writer();
        let response = self.write_txn(&mut writer, request, &mut path.into_iter());
        self.finish(&writer);
        Ok(response)
    }

    /// A transaction that only reads, without a command.
    ///
    /// # Errors
    /// A revision that is compacted or not reached.
    ///
    /// # Panics
    /// When the transaction contains a write.
    pub fn read_txn(&self, request: &TxnRequest) -> Result<TxnResponse, Error> {
        let succeeded = self.holds_all(&request.compare);
        let ops = if succeeded { &request.success } else { &request.failure };
        let mut responses = Vec::with_capacity(ops.len());
        for op in ops {
            responses.push(ResponseOp::from(match &op.request {
                Some(Request::RequestRange(range)) => Response::ResponseRange(self.range(range)?),
                Some(Request::RequestTxn(inner)) => Response::ResponseTxn(self.read_txn(inner)?),
                Some(_) => panic!("a write needs a command"),
                None => continue,
            }));
        }
        Ok(TxnResponse { header: self.header(), succeeded, responses })
    }

    /// Evaluates the comparisons of a transaction and of those nested in the branches taken, outermost first. All
    /// of them look at the state before the first write.
    fn choose(&self, request: &TxnRequest, path: &mut Vec<bool>) {
        let succeeded = self.holds_all(&request.compare);
        path.push(succeeded);
        for op in branch(request, succeeded) {
            if let Some(Request::RequestTxn(inner)) = &op.request {
                self.choose(inner, path);
            }
        }
    }

    fn check_ops(&self, request: &TxnRequest, path: &mut impl Iterator<Item = bool>) -> Result<(), Error> {
        let succeeded = path.next().expect("one choice for each transaction on the path");
        for op in branch(request, succeeded) {
            match &op.request {
                Some(Request::RequestRange(range)) => self.check_revision(range.revision).map(drop)?,
                Some(Request::RequestPut(put)) => self.check_put(put)?,
                Some(Request::RequestTxn(inner)) => self.check_ops(inner, path)?,
                Some(Request::RequestDeleteRange(_)) | None => {}
            }
        }
        Ok(())
    }

    fn check_put(&self, request: &PutRequest) -> Result<(), Error> {
        let needs_previous = request.ignore_value || request.ignore_lease;
        if needs_previous && self.live(&request.key).is_none() {
            return Err(Error::KeyNotFound);
        }
        if request.lease != 0 && !self.leases.contains(request.lease) {
            return Err(Error::LeaseNotFound);
        }
        Ok(())
    }

    fn write_txn(
        &mut self,
        writer: &mut Writer,
        request: TxnRequest,
        path: &mut impl Iterator<Item = bool>,
    ) -> TxnResponse {
        let succeeded = path.next().expect("one choice for each transaction on the path");
        let ops = if succeeded { request.success } else { request.failure };
        let mut responses = Vec::with_capacity(ops.len());
        for op in ops {
            responses.push(ResponseOp::from(match op.request {
                Some(Request::RequestRange(range)) => {
                    Response::ResponseRange(self.range_in_txn(writer, &range))
                }
                Some(Request::RequestPut(put)) => Response::ResponsePut(self.write_put(writer, put)),
                Some(Request::RequestDeleteRange(delete)) => {
                    Response::ResponseDeleteRange(self.write_delete(writer, &delete))
                }
                Some(Request::RequestTxn(inner)) => {
                    Response::ResponseTxn(self.write_txn(writer, inner, path))
                }
                // As etcd: an operation without a request is skipped.
                None => continue,
            }));
        }
        TxnResponse { header: writer.header(), succeeded, responses }
    }

    fn range_in_txn(&self, writer: &Writer, request: &RangeRequest) -> isopod_kv::RangeResponse {
        let revision = if request.revision > 0 { request.revision } else { i64::MAX };
        let mut response = self.range_at(request, revision);
        response.header = writer.header();
        response
    }

    fn write_put(&mut self, writer: &mut Writer, request: PutRequest) -> PutResponse {
        let previous = self.live(&request.key).cloned();
        let mut kv = KeyValue {
            key: request.key,
            create_revision: writer.main,
            mod_revision: writer.main,
            version: 1,
            value: request.value,
            lease: request.lease,
        };
        if let Some(previous) = &previous {
            kv.create_revision = previous.kv.create_revision;
            kv.version = previous.kv.version + 1;
            if request.ignore_value {
                kv.value = previous.kv.value.clone();
            }
            if request.ignore_lease {
                kv.lease = previous.kv.lease;
            }
        }
        let old_lease = previous.as_ref().map_or(0, |previous| previous.kv.lease);
        if old_lease != kv.lease {
            self.leases.detach(old_lease, &kv.key);
            self.leases.attach(kv.lease, &kv.key);
        }
        self.live_keys += usize::from(previous.is_none());
        self.append(writer, kv, false);
        let prev_kv = previous.filter(|_| request.prev_kv).map(|previous| previous.kv.clone());
        PutResponse { header: writer.header(), prev_kv }
    }

    fn write_delete(&mut self, writer: &mut Writer, request: &DeleteRangeRequest) -> DeleteRangeResponse {
        let doomed = self.live_in(&request.key, &request.range_end);
        for record in &doomed {
            self.delete_record(writer, record);
        }
        let prev_kvs = if request.prev_kv {
            doomed.iter().map(|record| record.kv.clone()).collect()
        } else {
            Vec::new()
        };
        DeleteRangeResponse { header: writer.header(), deleted: doomed.len() as i64, prev_kvs }
    }

    /// Deletes a key that exists.
    pub(crate) fn delete_record(&mut self, writer: &mut Writer, record: &Record) {
        self.leases.detach(record.kv.lease, &record.kv.key);
        self.live_keys -= 1;
        let kv = KeyValue { key: record.kv.key.clone(), mod_revision: writer.main, ..Default::default() };
        self.append(writer, kv, true);
    }

    fn append(&mut self, writer: &mut Writer, mut kv: KeyValue, tombstone: bool) {
        // All versions of a key share the bytes of its first name.
        let history = self.keys.get_mut(&kv.key);
        if let Some(history) = &history {
            kv.key = history.latest().kv.key.clone();
        }
        let record = Arc::new(Record { kv, sub: writer.sub, tombstone });
        writer.sub += 1;
        self.size += record.size();
        self.log.push_back(record.clone());
        match history {
            Some(history) => history.push(record),
            None => {
                self.keys.insert(record.kv.key.clone(), History::One(record));
            }
        }
    }

    /// The newest version of a key that exists.
    pub(crate) fn live(&self, key: &[u8]) -> Option<&Arc<Record>> {
        self.keys.get(key).and_then(History::live)
    }

    /// The newest versions of the keys that exist in a range, in order.
    fn live_in(&self, key: &Bytes, range_end: &Bytes) -> Vec<Arc<Record>> {
        if range_end.is_empty() {
            return self.live(key).cloned().into_iter().collect();
        }
        let Some(bounds) = bounds(key, range_end) else { return Vec::new() };
        self.keys.range::<[u8], _>(bounds).filter_map(|(_, history)| history.live().cloned()).collect()
    }
}

fn branch(request: &TxnRequest, succeeded: bool) -> &[RequestOp] {
    if succeeded { &request.success } else { &request.failure }
}
