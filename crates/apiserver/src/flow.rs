//! Seats: how many requests run at once, and who waits.
//!
//! Read-only and mutating requests have seats of their own, so that a flood of one kind leaves the other
//! working; a request waits a bounded time in a bounded queue and is then told to retry. Long-running
//! requests take no seat, nor do administrators and callers in this process, who must get through when
//! everything else is stuck.

use std::sync::atomic::{AtomicUsize, Ordering};

use isopod_api::identity::{GROUP_MASTERS, UserInfo};
use isopod_api::status::Status;
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::limits;
use crate::request_info::RequestInfo;

/// The seats of a server.
#[derive(Debug)]
pub(crate) struct Flow {
    read: Pool,
    write: Pool,
}

#[derive(Debug)]
struct Pool {
    seats: Semaphore,
    waiting: AtomicUsize,
    size: usize,
}

impl Default for Flow {
    fn default() -> Flow {
        let pool = |size| Pool { seats: Semaphore::new(size), waiting: AtomicUsize::new(0), size };
        Flow { read: pool(limits::INFLIGHT_READ_MAX), write: pool(limits::INFLIGHT_WRITE_MAX) }
    }
}

/// Counts a waiting request for as long as it waits, however it stops waiting.
struct Waiting<'p>(&'p AtomicUsize);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Flow {
    /// A seat for the request, held until it is answered.
    pub(crate) async fn seat(
        &self,
        info: &RequestInfo,
        user: &UserInfo,
    ) -> Result<Option<SemaphorePermit<'_>>, Status> {
        if info.is_long_running() || user.in_group(GROUP_MASTERS) {
            return Ok(None);
        }
        let pool = if info.is_read_only() { &self.read } else { &self.write };
        if let Ok(seat) = pool.seats.try_acquire() {
            return Ok(Some(seat));
        }
        let refused = || Status::too_many_requests("Too many requests, please try again later.", 1);
        if pool.waiting.fetch_add(1, Ordering::Relaxed) >= limits::INFLIGHT_QUEUE_MAX {
            pool.waiting.fetch_sub(1, Ordering::Relaxed);
            return Err(refused());
        }
        let _waiting = Waiting(&pool.waiting);
        match tokio::time::timeout(limits::INFLIGHT_QUEUE_TIMEOUT, pool.seats.acquire()).await {
            Ok(Ok(seat)) => Ok(Some(seat)),
            _ => Err(refused()),
        }
    }

    /// Read-only and mutating requests running now.
    pub(crate) fn in_flight(&self) -> (usize, usize) {
        let of = |pool: &Pool| pool.size - pool.seats.available_permits();
        (of(&self.read), of(&self.write))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn beyond_the_seats_requests_wait_and_are_then_refused() {
        let flow = Flow::default();
        let user = UserInfo::authenticated("u", &[]);
        let list = RequestInfo::parse(&http::Method::GET, "/api/v1/pods", None);
        let mut seats = Vec::new();
        for _ in 0..limits::INFLIGHT_READ_MAX {
            seats.push(flow.seat(&list, &user).await.unwrap());
        }
        assert_eq!(flow.in_flight().0, limits::INFLIGHT_READ_MAX);
        let refused = flow.seat(&list, &user).await.unwrap_err();
        assert_eq!((refused.code, refused.retry_after_seconds), (429, 1));
        // Writers, watches and administrators have room.
        let create = RequestInfo::parse(&http::Method::POST, "/api/v1/pods", None);
        assert!(flow.seat(&create, &user).await.unwrap().is_some());
        let watch = RequestInfo::parse(&http::Method::GET, "/api/v1/pods", Some("watch=1"));
        assert!(flow.seat(&watch, &user).await.unwrap().is_none());
        let admin = UserInfo::authenticated("a", &[GROUP_MASTERS]);
        assert!(flow.seat(&list, &admin).await.unwrap().is_none());
        seats.pop();
        assert!(flow.seat(&list, &user).await.unwrap().is_some());
    }
}
