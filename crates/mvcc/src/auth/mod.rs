//! Users, roles and what they may do: etcd's auth store, as part of the replicated state.
//!
//! Passwords are hashed before a command enters the log, so that applying it is quick and the same everywhere, and no
//! password is ever written down. Every change of users and roles raises the auth revision; a request that was
//! authenticated at an older one is refused when it is applied, since its user may have lost the right to it.

mod change;
mod check;
mod permissions;
mod tokens;

use std::collections::BTreeMap;

use isopod_kv::{Error, Permission, Role, User, UserAddOptions};

pub use tokens::{Session, TOKEN_TTL, Tokens};

use permissions::Permissions;

/// The name of the user, and of the role, that may do everything.
pub const ROOT: &str = "root";
/// The auth revision of an empty store, as etcd counts.
const FIRST_REVISION: u64 = 1;

/// Who makes a request. A command without a caller comes from the store itself, or from its own process, and may do
/// everything.
#[derive(Clone, PartialEq, Eq, ::prost::Message)]
pub struct Caller {
    /// The user; empty for a client that did not authenticate.
    #[prost(string, tag = "1")]
    pub user: String,
    /// The auth revision at which the user was authenticated; 0 without a user.
    #[prost(uint64, tag = "2")]
    pub revision: u64,
}

/// Issues a token to a user whose password has been checked.
#[derive(Clone, PartialEq, Eq, ::prost::Message)]
pub struct Authenticate {
    /// The user.
    #[prost(string, tag = "1")]
    pub name: String,
    /// What nobody can guess; the token is made of it and the index of the command.
    #[prost(string, tag = "2")]
    pub secret: String,
    /// The auth revision at which the password was checked.
    #[prost(uint64, tag = "3")]
    pub revision: u64,
}

/// Users and roles.
#[derive(Clone, Debug)]
pub struct Auth {
    enabled: bool,
    revision: u64,
    users: BTreeMap<String, Account>,
    roles: BTreeMap<String, Vec<Permission>>,
}

/// A user.
#[derive(Clone, Debug, Default)]
struct Account {
    /// The bcrypt hash; empty if no password fits.
    password: Vec<u8>,
    no_password: bool,
    /// Sorted.
    roles: Vec<String>,
    /// The auth revision at which the user was made or given a password: older sessions are void.
    since: u64,
    /// The sum of the roles.
    permissions: Permissions,
}

impl Account {
    fn is_root(&self) -> bool {
        self.roles.iter().any(|role| role == ROOT)
    }
}

impl Default for Auth {
    fn default() -> Auth {
        Auth { enabled: false, revision: FIRST_REVISION, users: BTreeMap::new(), roles: BTreeMap::new() }
    }
}

impl Auth {
    /// Whether requests are checked at all.
    pub fn is_enabled(&self) -> bool {
        self.enabled
    }

    /// Counts the changes of users and roles.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// The password hash of a user, to be checked against a password.
    ///
    /// # Errors
    /// [`Error::AuthNotEnabled`]; [`Error::AuthFailed`] for a user who does not exist or has no password.
    pub fn password_hash(&self, user: &str) -> Result<&[u8], Error> {
        if !self.enabled {
            return Err(Error::AuthNotEnabled);
        }
        let account = self.users.get(user).filter(|account| !account.no_password);
        account.map(|account| &account.password[..]).ok_or(Error::AuthFailed)
    }

    /// The user of a session, if it is still valid.
    pub fn session_user<'a>(&self, session: &'a Session) -> Option<&'a str> {
        let account = self.users.get(&session.user)?;
        (account.since == session.since).then_some(&session.user[..])
    }

    /// Names of all users.
    pub fn users(&self) -> impl Iterator<Item = &String> {
        self.users.keys()
    }

    /// Names of all roles.
    pub fn roles(&self) -> impl Iterator<Item = &String> {
        self.roles.keys()
    }

    /// The roles of a user.
    ///
    /// # Errors
    /// [`Error::UserNotFound`].
    pub fn user_roles(&self, user: &str) -> Result<&[String], Error> {
        self.users.get(user).map(|account| &account.roles[..]).ok_or(Error::UserNotFound)
    }

    /// What a role grants. The root role grants everything.
    ///
    /// # Errors
    /// [`Error::RoleNotFound`].
    pub fn role_permissions(&self, role: &str) -> Result<Vec<Permission>, Error> {
        let permissions = self.roles.get(role).ok_or(Error::RoleNotFound)?;
        if role == ROOT {
            let everything = Permission {
                perm_type: isopod_kv::permission::Type::ReadWrite as i32,
                key: bytes::Bytes::new(),
                range_end: bytes::Bytes::from_static(isopod_kv::keys::FROM_KEY),
            };
            return Ok(vec![everything]);
        }
        Ok(permissions.clone())
    }

    /// For a snapshot.
    pub fn to_stored(&self) -> StoredAuth {
        let user = |(name, account): (&String, &Account)| StoredUser {
            user: Some(User {
                name: name.clone().into(),
                password: account.password.clone().into(),
                roles: account.roles.clone(),
                options: Some(UserAddOptions { no_password: account.no_password }),
            }),
            since: account.since,
        };
        let role = |(name, permissions): (&String, &Vec<Permission>)| Role {
            name: name.clone().into(),
            key_permission: permissions.clone(),
        };
        StoredAuth {
            enabled: self.enabled,
            revision: self.revision,
            users: self.users.iter().map(user).collect(),
            roles: self.roles.iter().map(role).collect(),
        }
    }

    /// From a snapshot.
    pub fn from_stored(stored: StoredAuth) -> Auth {
        let text = |name: &[u8]| String::from_utf8_lossy(name).into_owned();
        let mut auth = Auth { enabled: stored.enabled, revision: stored.revision.max(1), ..Auth::default() };
        for role in stored.roles {
            auth.roles.insert(text(&role.name), role.key_permission);
        }
        for StoredUser { user, since } in stored.users {
            let Some(mut user) = user else { continue };
            user.roles.sort_unstable();
            let account = Account {
                password: user.password.to_vec(),
                no_password: user.options.is_some_and(|options| options.no_password),
                roles: user.roles,
                since,
                permissions: Permissions::default(),
            };
            auth.users.insert(text(&user.name), account);
        }
        auth.sum_permissions();
        auth
    }
}

/// Users and roles in a snapshot.
#[derive(Clone, PartialEq, Eq, ::prost::Message)]
pub struct StoredAuth {
    /// Whether requests are checked.
    #[prost(bool, tag = "1")]
    pub enabled: bool,
    /// The auth revision.
    #[prost(uint64, tag = "2")]
    pub revision: u64,
    /// All users.
    #[prost(message, repeated, tag = "3")]
    pub users: Vec<StoredUser>,
    /// All roles.
    #[prost(message, repeated, tag = "4")]
    pub roles: Vec<Role>,
}

/// A user in a snapshot.
#[derive(Clone, PartialEq, Eq, ::prost::Message)]
pub struct StoredUser {
    /// The user as etcd stores it; the password is its bcrypt hash.
    #[prost(message, optional, tag = "1")]
    pub user: Option<User>,
    /// The auth revision at which the user was made or given a password.
    #[prost(uint64, tag = "2")]
    pub since: u64,
}
