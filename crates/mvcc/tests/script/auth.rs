//! Commands about users and roles.

use isopod_kv::{
    AuthRoleGrantPermissionRequest, AuthRoleRevokePermissionRequest, AuthUserAddRequest,
    AuthUserChangePasswordRequest, AuthUserGrantRoleRequest, AuthUserRevokeRoleRequest, Error, Permission,
    UserAddOptions, permission,
};
use isopod_mvcc::{Authenticate, Caller, Op};

use crate::{Args, World, range, text};

impl World {
    /// `as USER command`, at the current auth revision; `as USER@3 command` at an older one; `as - command` without
    /// having authenticated.
    pub(crate) fn command_as(&mut self, line: &str) -> String {
        let (who, command) = line.split_once(' ').unwrap();
        let current = self.state.auth().revision();
        let (user, revision) = match who.split_once('@') {
            Some((user, revision)) => (user, revision.parse().unwrap()),
            None => (who, current),
        };
        self.caller = Some(match user {
            "-" => Caller::default(),
            user => Caller { user: user.to_owned(), revision },
        });
        let answer = self.command(command);
        self.caller = None;
        answer
    }

    pub(crate) fn auth_command(&mut self, name: &str, args: &Args<'_>) -> String {
        let (first, second) = (args.word(0).to_owned(), args.word(1).to_owned());
        let op = match name {
            "enable" => Op::AuthEnable(Default::default()),
            "disable" => Op::AuthDisable(Default::default()),
            "login" => Op::Authenticate(Authenticate {
                name: first,
                secret: "t".to_owned(),
                revision: args.number("rev") as u64,
            }),
            "useradd" => Op::UserAdd(AuthUserAddRequest {
                options: Some(UserAddOptions { no_password: second.is_empty() }),
                name: first,
                hashed_password: second,
                ..Default::default()
            }),
            "userdel" => Op::UserDelete(isopod_kv::AuthUserDeleteRequest { name: first }),
            "passwd" => Op::UserChangePassword(AuthUserChangePasswordRequest {
                name: first,
                hashed_password: second,
                ..Default::default()
            }),
            "grantrole" => Op::UserGrantRole(AuthUserGrantRoleRequest { user: first, role: second }),
            "revokerole" => Op::UserRevokeRole(AuthUserRevokeRoleRequest { name: first, role: second }),
            "roleadd" => Op::RoleAdd(isopod_kv::AuthRoleAddRequest { name: first }),
            "roledel" => Op::RoleDelete(isopod_kv::AuthRoleDeleteRequest { role: first }),
            "allow" => {
                let range = range(&Args(args.0[2..].to_vec()));
                let perm_type = match &second[..] {
                    "read" => permission::Type::Read,
                    "write" => permission::Type::Write,
                    _ => permission::Type::ReadWrite,
                };
                let perm =
                    Permission { perm_type: perm_type as i32, key: range.key, range_end: range.range_end };
                Op::RoleGrantPermission(AuthRoleGrantPermissionRequest { name: first, perm: Some(perm) })
            }
            "forbid" => {
                let range = range(&Args(args.0[1..].to_vec()));
                let (key, range_end) = (range.key, range.range_end);
                Op::RoleRevokePermission(AuthRoleRevokePermissionRequest { role: first, key, range_end })
            }
            "auth" => return self.show_auth(),
            "mayread" => return self.may_read(args),
            other => panic!("unknown command {other}"),
        };
        self.apply(op)
    }

    fn may_read(&self, args: &Args<'_>) -> String {
        let range = range(args);
        let caller = self.caller.clone().unwrap();
        let allowed = self.state.auth().check_read(&caller, &range.key, &range.range_end);
        allowed.map_or_else(|error| error.to_string(), |()| "yes".to_owned())
    }

    fn show_auth(&self) -> String {
        let auth = self.state.auth();
        let mut out = format!("enabled {} revision {}", auth.is_enabled(), auth.revision());
        for user in auth.users() {
            out += &format!("\nuser {user} [{}]", auth.user_roles(user).unwrap().join(" "));
        }
        for role in auth.roles() {
            let permissions = auth.role_permissions(role).unwrap();
            let show = |permission: &Permission| {
                let kind = permission::Type::try_from(permission.perm_type).unwrap();
                format!(" {kind:?} {:?}..{:?}", text(&permission.key), text(&permission.range_end))
            };
            out += &format!("\nrole {role}{}", permissions.iter().map(show).collect::<String>());
        }
        assert_eq!(auth.user_roles("nobody"), Err(Error::UserNotFound));
        out
    }
}
