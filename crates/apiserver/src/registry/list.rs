//! Lists: consistency, selectors, pages.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use isopod_api::status::Status;
use isopod_kv::RangeRequest;
use serde_json::json;

use super::Resource;
use super::storage::store_error;
use crate::cache::{Entry, Filter, Snapshot, ordered::Keyed as _, ordered::Ordered};
use crate::limits;
use crate::options::{ListOptions, VersionMatch};
use crate::server::ApiServer;

/// The objects of one answer.
#[derive(Debug)]
pub struct Page {
    /// Matching entries in order.
    pub entries: Vec<Arc<Entry>>,
    /// Revision of the list.
    pub revision: i64,
    /// Token for the rest, empty if this is the end.
    pub continue_token: String,
    /// Items after this page, if known.
    pub remaining: Option<usize>,
}

/// A decoded continue token.
struct Token {
    revision: i64,
    start: String,
}

impl Token {
    fn encode(revision: i64, start: &str) -> String {
        let token = json!({"v": "meta.k8s.io/v1", "rv": revision, "start": start});
        URL_SAFE_NO_PAD.encode(token.to_string())
    }

    fn decode(text: &str, prefix: &str) -> Result<Token, Status> {
        let bad = |why: &str| Status::bad_request(format!("continue key is not valid: {why}"));
        let bytes = URL_SAFE_NO_PAD.decode(text.trim_end_matches('=')).map_err(|e| bad(&e.to_string()))?;
        let token: serde_json::Value = serde_json::from_slice(&bytes).map_err(|e| bad(&e.to_string()))?;
        if token["v"] != "meta.k8s.io/v1" {
            return Err(bad("server does not recognize this encoded version"));
        }
        let revision = token["rv"].as_i64().ok_or_else(|| bad("incorrect encoded start resourceVersion"))?;
        let start = token["start"].as_str().filter(|s| !s.is_empty() && !s.starts_with('/'));
        let start = start.ok_or_else(|| bad("encoded start key empty"))?;
        if !start.starts_with(prefix) {
            return Err(bad("start key is outside of the collection"));
        }
        Ok(Token { revision, start: start.to_owned() })
    }
}

impl ApiServer {
    /// A snapshot of a resource: at the newest revision, or one not older than `at_least`.
    pub async fn snapshot(&self, resource: &Resource, at_least: Option<i64>) -> Result<Snapshot, Status> {
        // The cache may start anew between one step and the next.
        for _ in 0..limits::UPDATE_RETRIES_MAX {
            if let Some(snapshot) = self.try_snapshot(resource, at_least).await? {
                return Ok(snapshot);
            }
        }
        Err(Status::service_unavailable("the cache is being filled anew").retry_after(1))
    }

    async fn try_snapshot(
        &self,
        resource: &Resource,
        at_least: Option<i64>,
    ) -> Result<Option<Snapshot>, Status> {
        let registry = self.registry();
        let cache = &resource.stored.cache;
        cache.ensure(&*registry.store).await?;
        let feed = &registry.feed;
        let needed = match at_least {
            Some(revision) => revision,
            None => feed.current().await.map_err(|e| store_error(&e))?,
        };
        if !feed.wait(needed).await {
            if at_least.is_some() {
                let message = format!("Too large resource version: {needed}, current: {}", feed.progress());
                let mut status = Status::timeout(message).cause(
                    "ResourceVersionTooLarge",
                    "Too large resource version",
                    "",
                );
                status.retry_after_seconds = 1;
                return Err(status);
            }
            return Err(Status::timeout("the cache did not catch up with the store in time").retry_after(1));
        }
        Ok(cache.snapshot(feed.progress().max(needed)))
    }

    /// The objects a list request asks for.
    pub async fn list(
        &self,
        resource: &Resource,
        filter: &Filter,
        options: &ListOptions,
    ) -> Result<Page, Status> {
        let prefix = filter.key_prefix();
        let (snapshot, start) = if options.continue_token.is_empty() {
            (self.snapshot_for(resource, options).await?, prefix.clone())
        } else {
            let token = Token::decode(&options.continue_token, &prefix)?;
            if options.resource_version.is_some_and(|v| v != 0) {
                return Err(Status::bad_request(
                    "specifying resource version is not allowed when using continue",
                ));
            }
            if token.revision <= 0 {
                (self.snapshot(resource, None).await?, token.start)
            } else {
                (self.snapshot_at(resource, token.revision).await?, token.start)
            }
        };
        // A list "at any version" comes whole from the cache, as upstream's does.
        let any = options.resource_version == Some(0) && options.continue_token.is_empty();
        let limit = if any { 0 } else { options.limit };
        Ok(self.page(resource, snapshot, filter, limit, &prefix, &start))
    }

    async fn snapshot_for(&self, resource: &Resource, options: &ListOptions) -> Result<Snapshot, Status> {
        match (options.resource_version, options.version_match) {
            (Some(revision), VersionMatch::Exact) => self.snapshot_at(resource, revision).await,
            // Upstream reads a limited list at a revision without a match rule as exact.
            (Some(revision), VersionMatch::Unset) if revision > 0 && options.limit > 0 => {
                self.snapshot_at(resource, revision).await
            }
            (Some(revision), _) => self.snapshot(resource, Some(revision)).await,
            (None, _) => self.snapshot(resource, None).await,
        }
    }

    /// The state at exactly one revision: kept for paging, current by chance, or read from the store.
    async fn snapshot_at(&self, resource: &Resource, revision: i64) -> Result<Snapshot, Status> {
        let registry = self.registry();
        let stored = &resource.stored;
        stored.cache.ensure(&*registry.store).await?;
        if let Some(snapshot) = stored.cache.page(revision) {
            return Ok(snapshot);
        }
        if !registry.feed.wait(revision).await {
            let message =
                format!("Too large resource version: {revision}, current: {}", registry.feed.progress());
            return Err(Status::timeout(message).cause(
                "ResourceVersionTooLarge",
                "Too large resource version",
                "",
            ));
        }
        if let Some(now) = stored.cache.snapshot(revision).filter(|s| s.revision == revision) {
            return Ok(now);
        }
        let mut request = RangeRequest::prefix(stored.cache.spec.prefix.clone());
        request.revision = revision;
        request.limit = limits::STORE_PAGE_MAX;
        let mut entries = Vec::new();
        loop {
            let page = registry.store.range(request.clone()).await.map_err(|e| store_error(&e))?;
            entries.extend(page.kvs.iter().filter_map(|kv| stored.cache.entry_of(kv)).map(Arc::new));
            match page.kvs.last() {
                Some(last) if page.more => request.key = isopod_kv::keys::successor(&last.key),
                _ => break,
            }
        }
        Ok(Snapshot { objects: Ordered::from_sorted(entries), revision })
    }

    fn page(
        &self,
        resource: &Resource,
        snapshot: Snapshot,
        filter: &Filter,
        limit: usize,
        prefix: &str,
        start: &str,
    ) -> Page {
        let strategy = resource.stored.strategy;
        let mut page = Page {
            entries: Vec::new(),
            revision: snapshot.revision,
            continue_token: String::new(),
            remaining: None,
        };
        if let Some(key) = filter.exact_key(resource.stored.namespaced) {
            let found = snapshot.objects.get(&key).filter(|e| filter.matches(e, strategy));
            page.entries.extend(found.cloned());
            return page;
        }
        let plain = filter.is_plain();
        let mut position = snapshot.objects.seek(start);
        while let Some(entry) = snapshot.objects.next(&mut position) {
            if !entry.key().starts_with(prefix) {
                break;
            }
            if !plain && !filter.matches(entry, strategy) {
                continue;
            }
            if limit > 0 && page.entries.len() == limit {
                let last = page.entries.last().map_or("", |e| e.key());
                page.continue_token = Token::encode(snapshot.revision, &format!("{last}\0"));
                if plain {
                    let mut rest = 1;
                    while snapshot.objects.next(&mut position).is_some_and(|e| e.key().starts_with(prefix)) {
                        rest += 1;
                    }
                    page.remaining = Some(rest);
                }
                break;
            }
            page.entries.push(Arc::clone(entry));
        }
        if !page.continue_token.is_empty() {
            resource.stored.cache.keep_page(snapshot);
        }
        page
    }
}
