//! `kube-system/extension-apiserver-authentication`: tells extension API servers whose certificates to trust.

use isopod_api::Value;
use isopod_api::status::Status;
use serde_json::json;

use crate::poststart::ensure as ensure_object;
use crate::server::ApiServer;

const NAMESPACE: &str = "kube-system";
const NAME: &str = "extension-apiserver-authentication";

pub(super) async fn ensure(server: &ApiServer) -> Result<(), Status> {
    let config = &server.config.authentication;
    let mut data = json!({});
    if !config.client_ca_pem.is_empty() {
        data["client-ca-file"] = json!(config.client_ca_pem);
    }
    if !config.front_proxy_ca_pem.is_empty() {
        let list = |items: &[&str]| json!(json!(items).to_string());
        data["requestheader-client-ca-file"] = json!(config.front_proxy_ca_pem);
        data["requestheader-allowed-names"] = json!(json!(config.front_proxy_names).to_string());
        data["requestheader-username-headers"] = list(&["X-Remote-User"]);
        data["requestheader-uid-headers"] = list(&["X-Remote-Uid"]);
        data["requestheader-group-headers"] = list(&["X-Remote-Group"]);
        data["requestheader-extra-headers-prefix"] = list(&["X-Remote-Extra-"]);
    }
    if data == json!({}) {
        return Ok(());
    }
    let map = json!({"metadata": {"name": NAME}, "data": data});
    ensure_object(server, "", "configmaps", NAMESPACE, map).await?;
    let mut change = |mut current: Value| {
        let differs = current["data"] != data;
        current["data"] = data.clone();
        Ok(differs.then_some(current))
    };
    server.update_object("", "configmaps", NAMESPACE, NAME, &mut change).await.map(|_| ())
}
