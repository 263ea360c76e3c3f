//! How many watches one client may have: a user at an address.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use isopod_api::status::Status;
use parking_lot::Mutex;

use crate::limits;

type Client = (String, Option<IpAddr>);

/// The watches of each client.
#[derive(Debug, Default)]
pub(crate) struct Watches(Mutex<HashMap<Client, usize>>);

/// The place of one watch, until this is dropped.
#[derive(Debug)]
pub(crate) struct WatchPlace {
    watches: Arc<Watches>,
    client: Client,
}

impl Watches {
    /// A place for one more watch of a client.
    pub(crate) fn enter(self: &Arc<Self>, user: &str, address: Option<IpAddr>) -> Result<WatchPlace, Status> {
        let client = (user.to_owned(), address);
        let mut all = self.0.lock();
        let count = all.entry(client.clone()).or_default();
        if *count >= limits::WATCHES_PER_CLIENT_MAX {
            return Err(Status::too_many_requests(
                format!("a client may have {} watches at once", limits::WATCHES_PER_CLIENT_MAX),
                1,
            ));
        }
        *count += 1;
        drop(all);
        Ok(WatchPlace { watches: Arc::clone(self), client })
    }
}

impl Drop for WatchPlace {
    fn drop(&mut self) {
        let mut all = self.watches.0.lock();
        if let Some(count) = all.get_mut(&self.client) {
            *count -= 1;
            if *count == 0 {
                all.remove(&self.client);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_client_has_its_own() {
        let watches = Arc::new(Watches::default());
        let here = Some([10, 0, 0, 1].into());
        let mut places: Vec<_> =
            (0..limits::WATCHES_PER_CLIENT_MAX).map(|_| watches.enter("u", here).unwrap()).collect();
        assert_eq!(watches.enter("u", here).unwrap_err().code, 429);
        assert!(watches.enter("v", here).is_ok());
        assert!(watches.enter("u", Some([10, 0, 0, 2].into())).is_ok());
        places.pop();
        assert!(watches.enter("u", here).is_ok());
        drop(places);
        assert!(watches.0.lock().is_empty());
    }
}
