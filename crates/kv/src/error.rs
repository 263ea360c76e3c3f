//! Errors of the store, with the gRPC codes and the texts that etcd's clients match on.

/// The gRPC code of an error.
pub use tonic::Code;

macro_rules! errors {
    ($($(#[$doc:meta])* $name:ident, $code:ident, $text:literal;)*) => {
        /// What a store answers when it refuses or fails. `Display` is etcd's own text.
        #[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
        #[non_exhaustive]
        pub enum Error {
            $($(#[$doc])* #[error($text)] $name,)*
            /// An error that is not in etcd's list: a transport failure, a disk failure, a newer server's error.
            #[error("{message}")]
            Other {
                /// The gRPC code.
                code: Code,
                /// What happened, for a human.
                message: String,
            },
        }

        impl Error {
            /// Every error that has a fixed text.
            pub const ALL: &'static [Error] = &[$(Error::$name,)*];

            /// The gRPC code that goes with the error.
            pub fn code(&self) -> Code {
                match self {
                    $(Error::$name => Code::$code,)*
                    Error::Other { code, .. } => *code,
                }
            }

            /// The error with exactly this text.
            pub fn from_text(text: &str) -> Option<Error> {
                match text {
                    $($text => Some(Error::$name),)*
                    _ => None,
                }
            }
        }
    };
}

errors! {
    /// A request without a key.
    EmptyKey, InvalidArgument, "etcdserver: key is not provided";
    /// `ignore_value` or `ignore_lease` on a key that does not exist.
    KeyNotFound, InvalidArgument, "etcdserver: key not found";
    /// `ignore_value` together with a value.
    ValueProvided, InvalidArgument, "etcdserver: value is provided";
    /// `ignore_lease` together with a lease.
    LeaseProvided, InvalidArgument, "etcdserver: lease is provided";
    /// More operations in one transaction than the server's limit.
    TooManyOps, InvalidArgument, "etcdserver: too many operations in txn request";
    /// One key put twice, or put and deleted, in one transaction.
    DuplicateKey, InvalidArgument, "etcdserver: duplicate key given in txn request";
    /// A sort order or target out of range.
    InvalidSortOption, InvalidArgument, "etcdserver: invalid sort option";
    /// A revision older than the last compaction.
    Compacted, OutOfRange, "etcdserver: mvcc: required revision has been compacted";
    /// A revision that the store has not reached.
    FutureRevision, OutOfRange, "etcdserver: mvcc: required revision is a future revision";
    /// The quota is used up, or the disk is full: only deletes, compaction and defragmentation are taken.
    NoSpace, ResourceExhausted, "etcdserver: mvcc: database space exceeded";
    /// No lease of this ID.
    LeaseNotFound, NotFound, "etcdserver: requested lease not found";
    /// A lease of this ID exists.
    LeaseExists, FailedPrecondition, "etcdserver: lease already exists";
    /// A TTL beyond nine thousand million seconds.
    LeaseTtlTooLarge, OutOfRange, "etcdserver: too large lease TTL";
    /// The watch has ended.
    WatchCanceled, Cancelled, "etcdserver: watch canceled";
    /// A member of this ID exists.
    MemberExists, FailedPrecondition, "etcdserver: member ID already exist";
    /// A member with this peer URL exists.
    PeerUrlExists, FailedPrecondition, "etcdserver: Peer URLs already exists";
    /// A change of membership that would lose the quorum.
    MemberNotEnoughStarted, FailedPrecondition, "etcdserver: re-configuration failed due to not enough started members";
    /// Member URLs that do not parse.
    MemberBadUrls, InvalidArgument, "etcdserver: given member URLs are invalid";
    /// No member of this ID.
    MemberNotFound, NotFound, "etcdserver: member not found";
    /// Promotion of a member that is not a learner.
    MemberNotLearner, FailedPrecondition, "etcdserver: can only promote a learner member";
    /// Promotion of a learner that lags.
    LearnerNotReady, FailedPrecondition, "etcdserver: can only promote a learner member which is in sync with leader";
    /// More learners than allowed.
    TooManyLearners, FailedPrecondition, "etcdserver: too many learner members in cluster";
    /// A peer of another cluster.
    ClusterIdMismatch, FailedPrecondition, "etcdserver: cluster ID mismatch";
    /// A request above the byte limit.
    RequestTooLarge, InvalidArgument, "etcdserver: request is too large";
    /// More unapplied requests than the server takes.
    TooManyRequests, ResourceExhausted, "etcdserver: too many requests";
    /// Authentication cannot be enabled without root.
    RootUserNotExist, FailedPrecondition, "etcdserver: root user does not exist";
    /// The root user lacks the root role.
    RootRoleNotExist, FailedPrecondition, "etcdserver: root user does not have root role";
    /// The user exists.
    UserAlreadyExist, FailedPrecondition, "etcdserver: user name already exists";
    /// An empty user name.
    UserEmpty, InvalidArgument, "etcdserver: user name is empty";
    /// No such user.
    UserNotFound, FailedPrecondition, "etcdserver: user name not found";
    /// The role exists.
    RoleAlreadyExist, FailedPrecondition, "etcdserver: role name already exists";
    /// No such role.
    RoleNotFound, FailedPrecondition, "etcdserver: role name not found";
    /// An empty role name.
    RoleEmpty, InvalidArgument, "etcdserver: role name is empty";
    /// A wrong user or password.
    AuthFailed, InvalidArgument, "etcdserver: authentication failed, invalid user ID or password";
    /// A grant without a permission.
    PermissionNotGiven, InvalidArgument, "etcdserver: permission not given";
    /// The user may not do this.
    PermissionDenied, PermissionDenied, "etcdserver: permission denied";
    /// The user does not have the role.
    RoleNotGranted, FailedPrecondition, "etcdserver: role is not granted to the user";
    /// The role does not have the permission.
    PermissionNotGranted, FailedPrecondition, "etcdserver: permission is not granted to the role";
    /// Authentication is off.
    AuthNotEnabled, FailedPrecondition, "etcdserver: authentication is not enabled";
    /// A token that is unknown or too old.
    InvalidAuthToken, Unauthenticated, "etcdserver: invalid auth token";
    /// A forbidden change of users or roles.
    InvalidAuthMgmt, InvalidArgument, "etcdserver: invalid auth management";
    /// The request was checked against older users and roles.
    AuthOldRevision, InvalidArgument, "etcdserver: revision of auth store is old";
    /// No leader is known.
    NoLeader, Unavailable, "etcdserver: no leader";
    /// This member is not the leader.
    NotLeader, FailedPrecondition, "etcdserver: not leader";
    /// The leader changed while the request was under way.
    LeaderChanged, Unavailable, "etcdserver: leader changed";
    /// The server does not have the feature.
    NotCapable, FailedPrecondition, "etcdserver: not capable";
    /// The server is stopping.
    Stopped, Unavailable, "etcdserver: server stopped";
    /// The request took too long.
    Timeout, Unavailable, "etcdserver: request timed out";
    /// The request took too long, the leader having failed.
    TimeoutDueToLeaderFail, Unavailable, "etcdserver: request timed out, possibly due to previous leader failure";
    /// The request took too long, a connection having failed.
    TimeoutDueToConnectionLost, Unavailable, "etcdserver: request timed out, possibly due to connection lost";
    /// The member lags too far behind to answer.
    TimeoutWaitAppliedIndex, Unavailable, "etcdserver: request timed out, waiting for the applied index took too long";
    /// The cluster has no quorum.
    Unhealthy, Unavailable, "etcdserver: unhealthy cluster";
    /// The corruption alarm is on.
    Corrupt, DataLoss, "etcdserver: corrupt cluster";
    /// A learner does not answer this.
    NotSupportedForLearner, FailedPrecondition, "etcdserver: rpc not supported for learner";
    /// The member named cannot become leader.
    BadLeaderTransferee, FailedPrecondition, "etcdserver: bad leader transferee";
    /// The version does not parse.
    WrongDowngradeVersionFormat, InvalidArgument, "etcdserver: wrong downgrade target version format";
    /// The version is not the one before.
    InvalidDowngradeTargetVersion, InvalidArgument, "etcdserver: invalid downgrade target version";
    /// A downgrade is under way.
    DowngradeInProcess, FailedPrecondition, "etcdserver: cluster has a downgrade job in progress";
    /// No downgrade is under way.
    NoInflightDowngrade, FailedPrecondition, "etcdserver: no inflight downgrade job";
    /// The caller gave up.
    Canceled, Cancelled, "etcdserver: request canceled";
    /// The caller's deadline passed.
    DeadlineExceeded, DeadlineExceeded, "etcdserver: context deadline exceeded";
}

impl Error {
    /// An error outside etcd's list.
    pub fn other(code: Code, message: impl Into<String>) -> Error {
        Error::Other { code, message: message.into() }
    }

    /// Whether the same request may succeed later, or at another member, as it stands.
    pub fn is_unavailable(&self) -> bool {
        self.code() == Code::Unavailable
    }
}

impl From<tonic::Status> for Error {
    fn from(status: tonic::Status) -> Error {
        if let Some(error) = Error::from_text(status.message()) {
            return error;
        }
        // A status that came over the wire has no source: this one is the transport's. It did not reach the server,
        // or the answer did not reach us; another attempt or another endpoint may do better.
        if let Some(mut source) = std::error::Error::source(&status) {
            let mut message = format!("{}: {source}", status.message());
            while let Some(inner) = source.source() {
                message = format!("{message}: {inner}");
                source = inner;
            }
            return Error::Other { code: Code::Unavailable, message };
        }
        Error::Other { code: status.code(), message: status.message().to_owned() }
    }
}

impl From<Error> for tonic::Status {
    fn from(error: Error) -> tonic::Status {
        tonic::Status::new(error.code(), error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_error_survives_the_wire() {
        for error in Error::ALL {
            let status = tonic::Status::from(error.clone());
            assert_eq!(&Error::from(status), error);
        }
    }

    #[test]
    fn an_unknown_text_keeps_its_code() {
        let error = Error::from(tonic::Status::new(Code::DataLoss, "etcdserver: something new"));
        assert_eq!(error.code(), Code::DataLoss);
        assert_eq!(error.to_string(), "etcdserver: something new");
    }
}
