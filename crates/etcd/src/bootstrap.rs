//! How a member finds its group, from etcd's flags.

use std::collections::BTreeMap;
use std::sync::Arc;

use isopod_kv::Member;

use crate::member::{Bootstrap, cluster_id, member_id};
use crate::peer::{Address, discover};

/// What etcd's flags of these names say.
#[derive(Clone, Debug)]
pub struct InitialCluster {
    /// `--name`.
    pub name: String,
    /// `--initial-cluster`: `NAME=URL` for each peer URL of each member.
    pub initial_cluster: Vec<String>,
    /// `--initial-cluster-state existing`: the group exists, and this member has been added to it.
    pub existing: bool,
    /// `--initial-cluster-token`.
    pub token: String,
    /// `--initial-advertise-peer-urls`: where other members reach this one.
    pub peer_urls: Vec<String>,
}

/// A fault in the flags, or a group that does not answer.
#[derive(Debug, thiserror::Error)]
pub enum BootstrapError {
    /// The flags contradict each other or do not parse.
    #[error("{0}")]
    Flags(String),
    /// No member of an existing group says who belongs to it.
    #[error("cannot ask the other members who belongs to the cluster")]
    Discover(#[source] std::io::Error),
}

impl InitialCluster {
    /// How a member without data begins. Asks the others where it joins a group that exists.
    ///
    /// # Errors
    /// See [`BootstrapError`].
    pub async fn bootstrap(
        &self,
        tls: Option<Arc<rustls::ClientConfig>>,
    ) -> Result<Bootstrap, BootstrapError> {
        let flags = |message: String| BootstrapError::Flags(message);
        let named = self.members().map_err(flags)?;
        if !self.existing {
            return self.new_group(named).map_err(flags);
        }
        let others: Vec<String> =
            named.iter().filter(|(name, _)| **name != self.name).flat_map(|(_, urls)| urls.clone()).collect();
        let group = discover(&others, tls).await.map_err(BootstrapError::Discover)?;
        let own = sorted(&self.peer_urls);
        let member = group.members.iter().find(|member| sorted(&member.peer_urls) == own);
        let Some(member) = member else {
            return Err(BootstrapError::Flags(format!(
                "--initial-cluster-state: the cluster has no member with the peer URLs {}: add it first",
                own.join(",")
            )));
        };
        Ok(Bootstrap::Join {
            cluster_id: group.cluster_id,
            member_id: member.id,
            members: group.members.clone(),
        })
    }

    /// Peer URLs by name.
    fn members(&self) -> Result<BTreeMap<&str, Vec<String>>, String> {
        let mut named: BTreeMap<&str, Vec<String>> = BTreeMap::new();
        let mut seen = Vec::new();
        for pair in &self.initial_cluster {
            let Some((name, url)) = pair.split_once('=').filter(|(name, _)| !name.is_empty()) else {
                return Err(format!("--initial-cluster: {pair:?} is not NAME=URL"));
            };
            let Some(address) = Address::parse(url) else {
                return Err(format!("--initial-cluster: {url:?} is not a URL of the form http://HOST:PORT"));
            };
            if seen.contains(&address) {
                return Err(format!("--initial-cluster: {url} occurs twice"));
            }
            seen.push(address);
            named.entry(name).or_default().push(url.to_owned());
        }
        match named.get(self.name.as_str()) {
            None => Err(format!("--initial-cluster does not name this member, {:?}", self.name)),
            Some(urls) if sorted(urls) != sorted(&self.peer_urls) => Err(format!(
                "--initial-cluster has {}={} but --initial-advertise-peer-urls is {}",
                self.name,
                urls.join(","),
                self.peer_urls.join(",")
            )),
            Some(_) => Ok(named),
        }
    }

    fn new_group(&self, named: BTreeMap<&str, Vec<String>>) -> Result<Bootstrap, String> {
        let members: Vec<Member> = named
            .into_iter()
            .map(|(name, urls)| {
                let peer_urls = sorted(&urls);
                let id = member_id(&peer_urls, &self.token);
                Member { id, name: name.to_owned(), peer_urls, ..Member::default() }
            })
            .collect();
        let ids: Vec<u64> = members.iter().map(|member| member.id).collect();
        let own = members.iter().find(|member| member.name == self.name).map(|member| member.id);
        let member_id = own.ok_or("--initial-cluster does not name this member")?;
        Ok(Bootstrap::New { cluster_id: cluster_id(&ids), member_id, members })
    }
}

fn sorted(urls: &[String]) -> Vec<String> {
    let mut urls = urls.to_vec();
    urls.sort_unstable();
    urls
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flags(name: &str, pairs: &[&str], peer_urls: &[&str]) -> InitialCluster {
        InitialCluster {
            name: name.to_owned(),
            initial_cluster: pairs.iter().map(|pair| (*pair).to_owned()).collect(),
            existing: false,
            token: "etcd-cluster".to_owned(),
            peer_urls: peer_urls.iter().map(|url| (*url).to_owned()).collect(),
        }
    }

    #[tokio::test]
    async fn all_members_of_a_new_group_agree_on_it() {
        let pairs = ["b=http://h2:2380", "a=http://h1:2380", "c=http://h3:2380", "a=http://h1:2381"];
        let mut groups = Vec::new();
        for (name, urls) in [("a", &["http://h1:2381", "http://h1:2380"][..]), ("c", &["http://h3:2380"])] {
            let bootstrap = flags(name, &pairs, urls).bootstrap(None).await.unwrap();
            let Bootstrap::New { cluster_id, member_id, members } = bootstrap else { panic!("a new group") };
            assert_eq!(members.iter().find(|member| member.id == member_id).unwrap().name, name);
            assert_eq!(members.len(), 3);
            groups.push((cluster_id, members));
        }
        assert_eq!(groups[0], groups[1]);
    }

    #[tokio::test]
    async fn faults_are_named() {
        let fault = async |name, pairs: &[&str], urls: &[&str]| {
            flags(name, pairs, urls).bootstrap(None).await.unwrap_err().to_string()
        };
        assert!(fault("a", &["x"], &[]).await.contains("is not NAME=URL"));
        assert!(fault("a", &["a=h:1"], &[]).await.contains("is not a URL"));
        assert!(fault("a", &["b=http://h:1"], &[]).await.contains("does not name this member"));
        assert!(fault("a", &["a=http://h:1", "b=http://h:1"], &[]).await.contains("occurs twice"));
        let other = fault("a", &["a=http://h:1"], &["http://h:2"]).await;
        assert!(other.contains("--initial-advertise-peer-urls is http://h:2"), "{other}");
    }
}
