//! Kubeconfig files: server, authority and credentials embedded, so that the file can be carried away.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::leaf::Leaf;

/// How the holder of a kubeconfig proves who it is.
pub enum Credentials<'a> {
    /// By a client certificate.
    Certificate(&'a Leaf),
    /// By a bearer token.
    Token(&'a str),
}

/// A kubeconfig (YAML) with one cluster, one user and one context, all named `name`.
pub fn kubeconfig(
    name: &str,
    server: &str,
    authority_pem: &str,
    user: &str,
    credentials: &Credentials<'_>,
) -> String {
    let credentials = match credentials {
        Credentials::Certificate(leaf) => format!(
            "    client-certificate-data: {}\n    client-key-data: {}\n",
            STANDARD.encode(&leaf.certificate_pem),
            STANDARD.encode(&leaf.key_pem)
        ),
        Credentials::Token(token) => format!("    token: {}\n", quoted(token)),
    };
    let (name, server, user) = (quoted(name), quoted(server), quoted(user));
    let authority = STANDARD.encode(authority_pem);
    format!(
        "apiVersion: v1\nkind: Config\nclusters:\n- name: {name}\n  cluster:\n    server: {server}\n    \
         certificate-authority-data: {authority}\nusers:\n- name: {user}\n  user:\n{credentials}contexts:\n- name: \
         {name}\n  context:\n    cluster: {name}\n    user: {user}\ncurrent-context: {name}\n"
    )
}

/// A JSON string is a YAML string.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}
