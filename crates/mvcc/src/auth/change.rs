//! Changes of users and roles.

use std::collections::btree_map::Entry;

use isopod_kv::{
    AuthRoleGrantPermissionRequest, AuthRoleRevokePermissionRequest, AuthUserAddRequest,
    AuthUserChangePasswordRequest, Error, Permission,
};

use super::permissions::{Permissions, is_valid_range};
use super::{Account, Auth, Authenticate, ROOT, Session};

impl Auth {
    /// Begins to check requests. Needs a root user with the root role, or nobody could end it.
    pub(crate) fn enable(&mut self) -> Result<(), Error> {
        let root = self.users.get(ROOT).ok_or(Error::RootUserNotExist)?;
        if !root.is_root() {
            return Err(Error::RootRoleNotExist);
        }
        self.enabled = true;
        Ok(())
    }

    pub(crate) fn disable(&mut self) {
        if self.enabled {
            self.enabled = false;
            self.changed();
        }
    }

    /// Issues a token, if nothing has changed since the password was checked.
    pub(crate) fn authenticate(&self, index: u64, request: Authenticate) -> Result<Session, Error> {
        self.password_hash(&request.name)?;
        if request.revision != self.revision {
            return Err(Error::AuthOldRevision);
        }
        let account = self.users.get(&request.name).ok_or(Error::AuthFailed)?;
        let token = format!("{}.{index}", request.secret);
        Ok(Session { token, user: request.name, since: account.since })
    }

    pub(crate) fn user_add(&mut self, request: AuthUserAddRequest) -> Result<(), Error> {
        if request.name.is_empty() {
            return Err(Error::UserEmpty);
        }
        let since = self.revision + 1;
        let Entry::Vacant(entry) = self.users.entry(request.name) else {
            return Err(Error::UserAlreadyExist);
        };
        let no_password = request.options.is_some_and(|options| options.no_password);
        let password = if no_password { Vec::new() } else { request.hashed_password.into_bytes() };
        entry.insert(Account { password, no_password, since, ..Account::default() });
        self.changed();
        Ok(())
    }

    pub(crate) fn user_delete(&mut self, name: &str) -> Result<(), Error> {
        if self.enabled && name == ROOT {
            return Err(Error::InvalidAuthMgmt);
        }
        self.users.remove(name).ok_or(Error::UserNotFound)?;
        self.changed();
        Ok(())
    }

    pub(crate) fn user_change_password(
        &mut self,
        request: AuthUserChangePasswordRequest,
    ) -> Result<(), Error> {
        let since = self.revision + 1;
        let account = self.users.get_mut(&request.name).ok_or(Error::UserNotFound)?;
        if !account.no_password {
            account.password = request.hashed_password.into_bytes();
        }
        account.since = since;
        self.changed();
        Ok(())
    }

    pub(crate) fn user_grant_role(&mut self, user: &str, role: String) -> Result<(), Error> {
        let account = self.users.get_mut(user).ok_or(Error::UserNotFound)?;
        // The root role needs no entry to be granted.
        if role != ROOT && !self.roles.contains_key(&role) {
            return Err(Error::RoleNotFound);
        }
        if let Err(position) = account.roles.binary_search(&role) {
            account.roles.insert(position, role);
            self.changed();
        }
        Ok(())
    }

    pub(crate) fn user_revoke_role(&mut self, user: &str, role: &str) -> Result<(), Error> {
        if self.enabled && user == ROOT && role == ROOT {
            return Err(Error::InvalidAuthMgmt);
        }
        let account = self.users.get_mut(user).ok_or(Error::UserNotFound)?;
        let before = account.roles.len();
        account.roles.retain(|granted| granted != role);
        if account.roles.len() == before {
            return Err(Error::RoleNotGranted);
        }
        self.changed();
        Ok(())
    }

    pub(crate) fn role_add(&mut self, name: String) -> Result<(), Error> {
        if name.is_empty() {
            return Err(Error::RoleEmpty);
        }
        let Entry::Vacant(entry) = self.roles.entry(name) else { return Err(Error::RoleAlreadyExist) };
        entry.insert(Vec::new());
        self.changed();
        Ok(())
    }

    pub(crate) fn role_delete(&mut self, name: &str) -> Result<(), Error> {
        if self.enabled && name == ROOT {
            return Err(Error::InvalidAuthMgmt);
        }
        self.roles.remove(name).ok_or(Error::RoleNotFound)?;
        for account in self.users.values_mut() {
            account.roles.retain(|granted| granted != name);
        }
        self.changed();
        Ok(())
    }

    /// Grants a range; a range that is granted already gets the new kind.
    pub(crate) fn role_grant_permission(
        &mut self,
        request: AuthRoleGrantPermissionRequest,
    ) -> Result<(), Error> {
        let permission = request.perm.ok_or(Error::PermissionNotGiven)?;
        if !is_valid_range(&permission.key, &permission.range_end) {
            return Err(Error::InvalidAuthMgmt);
        }
        let role = self.roles.get_mut(&request.name).ok_or(Error::RoleNotFound)?;
        let same = |granted: &&mut Permission| {
            granted.key == permission.key && granted.range_end == permission.range_end
        };
        match role.iter_mut().find(same) {
            Some(granted) => granted.perm_type = permission.perm_type,
            None => {
                let position = role.partition_point(|granted| granted.key <= permission.key);
                role.insert(position, permission);
            }
        }
        self.changed();
        Ok(())
    }

    pub(crate) fn role_revoke_permission(
        &mut self,
        request: &AuthRoleRevokePermissionRequest,
    ) -> Result<(), Error> {
        let role = self.roles.get_mut(&request.role).ok_or(Error::RoleNotFound)?;
        let before = role.len();
        role.retain(|granted| granted.key != request.key || granted.range_end != request.range_end);
        if role.len() == before {
            return Err(Error::PermissionNotGranted);
        }
        self.changed();
        Ok(())
    }

    fn changed(&mut self) {
        self.revision += 1;
        self.sum_permissions();
    }

    pub(super) fn sum_permissions(&mut self) {
        for account in self.users.values_mut() {
            let granted = account.roles.iter().filter_map(|role| self.roles.get(role)).flatten();
            account.permissions = Permissions::new(granted);
        }
    }
}
