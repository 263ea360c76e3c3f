//! Members of `system:masters` may do everything, whatever roles there are: the way back in.

use async_trait::async_trait;
use isopod_api::identity::{GROUP_MASTERS, UserInfo};

use crate::layers::{Attributes, Authorizer, Decision};

/// The first authoriser.
pub(super) struct Masters;

#[async_trait]
impl Authorizer for Masters {
    fn name(&self) -> &'static str {
        "PrivilegedGroup"
    }

    async fn authorize(&self, user: &UserInfo, _attributes: &Attributes) -> Decision {
        if user.in_group(GROUP_MASTERS) {
            Decision::Allow(String::new())
        } else {
            Decision::NoOpinion(String::new())
        }
    }
}
