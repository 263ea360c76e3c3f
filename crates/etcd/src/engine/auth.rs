//! Users, roles and tokens.

use std::future::Future;
use std::sync::LazyLock;

use isopod_kv::{AuthUserAddRequest, AuthUserChangePasswordRequest, Code, Error, ResponseHeader};
use isopod_mvcc::{Auth, Authenticate, Caller, Op, Reply, State};
use rand::Rng;
use tokio::sync::Semaphore;

use super::Engine;
use super::write::reply_of;
use super::{caller, expect_reply};

/// Passwords hashed at once. Each takes tens of milliseconds of a core, on purpose: whoever guesses passwords must not
/// keep everybody else from the processor.
static HASHING: LazyLock<Semaphore> = LazyLock::new(|| {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    Semaphore::new(cores.div_ceil(2))
});
/// Longest password, in bytes: bcrypt looks at no more.
const PASSWORD_BYTES_MAX: usize = 72;
/// Letters in the part of a token that nobody can guess.
const SECRET_LETTERS: usize = 32;
/// How often a password is checked anew because users and roles have changed meanwhile.
const AUTHENTICATE_ATTEMPTS: usize = 20;

impl Engine {
    /// Puts a change of users and roles through the log.
    ///
    /// # Errors
    /// As etcd's method of the same name.
    pub async fn change_auth(&self, op: Op) -> Result<Option<ResponseHeader>, Error> {
        let mut header = reply_of!(self.propose(op, false).await?, Auth);
        self.shared().stamp(&mut header);
        Ok(header)
    }

    /// Adds a user. The password does not enter the log.
    ///
    /// # Errors
    /// As etcd's `UserAdd`.
    pub async fn user_add(&self, mut request: AuthUserAddRequest) -> Result<Option<ResponseHeader>, Error> {
        let password = std::mem::take(&mut request.password);
        let no_password = request.options.as_ref().is_some_and(|options| options.no_password);
        request.hashed_password = if no_password { String::new() } else { self.hash(password).await? };
        self.change_auth(Op::UserAdd(request)).await
    }

    /// Gives a user another password, or one that nobody can enter if it is empty. It does not enter the log.
    ///
    /// # Errors
    /// As etcd's `UserChangePassword`.
    pub async fn user_change_password(
        &self,
        mut request: AuthUserChangePasswordRequest,
    ) -> Result<Option<ResponseHeader>, Error> {
        let password = std::mem::take(&mut request.password);
        request.hashed_password =
            if password.is_empty() { String::new() } else { self.hash(password).await? };
        self.change_auth(Op::UserChangePassword(request)).await
    }

    async fn hash(&self, password: String) -> Result<String, Error> {
        if password.len() > PASSWORD_BYTES_MAX {
            return Err(Error::other(
                Code::Unknown,
                format!("bcrypt: password length exceeds {PASSWORD_BYTES_MAX} bytes"),
            ));
        }
        let cost = self.config().bcrypt_cost;
        slowly(move || bcrypt::hash(password, cost)).await?.map_err(|error| {
            Error::other(Code::Internal, format!("etcdserver: cannot hash a password: {error}"))
        })
    }

    /// Issues a token for a user's password.
    ///
    /// # Errors
    /// As etcd's `Authenticate`.
    pub async fn authenticate(
        &self,
        name: &str,
        password: &str,
    ) -> Result<(Option<ResponseHeader>, String), Error> {
        for _ in 0..AUTHENTICATE_ATTEMPTS {
            self.catch_up().await?;
            let revision = self.check_password(name, password).await?;
            let (name, secret) = (name.to_owned(), secret());
            match self.propose(Op::Authenticate(Authenticate { name, secret, revision }), false).await {
                // Whatever has changed may be this user's password.
                Err(Error::AuthOldRevision) => {}
                reply => return Ok((self.shared().header(), reply_of!(reply?, Authenticate).token)),
            }
        }
        Err(Error::AuthOldRevision)
    }

    /// The auth revision at which the password was right.
    async fn check_password(&self, name: &str, password: &str) -> Result<u64, Error> {
        let (hash, revision) = {
            let state = self.shared().state.read();
            let auth = state.auth();
            match auth.password_hash(name) {
                Err(Error::AuthNotEnabled) => return Err(Error::AuthNotEnabled),
                hash => (hash.map(<[u8]>::to_vec).ok(), auth.revision()),
            }
        };
        let password = password.to_owned();
        let cost = self.config().bcrypt_cost;
        let right = slowly(move || match hash {
            Some(hash) => {
                String::from_utf8(hash).is_ok_and(|hash| bcrypt::verify(password, &hash).unwrap_or(false))
            }
            // It takes as long to be told that there is no such user as that the password is wrong.
            None => bcrypt::hash(password, cost).is_err(),
        });
        if right.await? { Ok(revision) } else { Err(Error::AuthFailed) }
    }

    /// Waits until everything acknowledged by anybody before has been applied here.
    ///
    /// # Errors
    /// As a linearizable `Range`.
    pub(crate) async fn catch_up(&self) -> Result<(), Error> {
        self.settle(false).await
    }

    /// Looks at users and roles.
    pub(crate) fn with_auth<T>(&self, look: impl FnOnce(&Auth) -> T) -> T {
        look(self.shared().state.read().auth())
    }

    /// Who presents a token, if it is one.
    ///
    /// # Errors
    /// [`Error::InvalidAuthToken`].
    pub(crate) async fn token_caller(&self, token: &str) -> Result<Caller, Error> {
        if let Some(caller) = self.known_token(token) {
            return Ok(caller);
        }
        // It may have been issued by another member, and its command be on its way.
        let index = token.split_once('.').and_then(|(_, index)| index.parse::<u64>().ok());
        if index.is_none_or(|index| index <= self.shared().state.read().applied_index()) {
            return Err(Error::InvalidAuthToken);
        }
        self.catch_up().await?;
        self.known_token(token).ok_or(Error::InvalidAuthToken)
    }

    fn known_token(&self, token: &str) -> Option<Caller> {
        let session = self.shared().renew_token(token)?;
        self.with_auth(|auth| {
            let user = auth.session_user(&session)?.to_owned();
            Some(Caller { user, revision: auth.revision() })
        })
    }

    /// Does something on behalf of the caller, if the caller may, and refuses the answer if users and roles have
    /// changed meanwhile. For reads, which no command checks.
    ///
    /// # Errors
    /// Those of the check and of the action.
    pub(crate) async fn checked<T>(
        &self,
        check: impl FnOnce(&State, &Caller) -> Result<(), Error>,
        action: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        let Some(caller) = caller::current() else { return action.await };
        {
            let state = self.shared().state.read();
            if state.auth().is_enabled() {
                check(&state, &caller)?;
            }
        }
        let answer = action.await?;
        self.with_auth(|auth| match auth.is_enabled() && caller.revision != auth.revision() {
            true if caller.user.is_empty() => Err(Error::UserEmpty),
            true => Err(Error::AuthOldRevision),
            false => Ok(answer),
        })
    }
}

/// What takes long on purpose: beside the tasks, and not too much of it at once.
async fn slowly<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Error> {
    let _turn = HASHING.acquire().await.map_err(|_| Error::Stopped)?;
    tokio::task::spawn_blocking(work).await.map_err(|_| Error::Stopped)
}

/// Random letters, as etcd's tokens have them.
fn secret() -> String {
    let mut rng = rand::rng();
    let letters = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";
    (0..SECRET_LETTERS).map(|_| char::from(letters[rng.random_range(0..letters.len())])).collect()
}
