//! Users and roles, with etcdctl as Debian ships it, with client certificates, and across a restart.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod served;

use std::path::Path;

use isopod_kv::grpc::{self, method, unary};
use isopod_kv::{
    AuthenticateRequest, AuthenticateResponse, Code, Error, PutRequest, PutResponse, RangeRequest,
};
use served::{Certificates, Served};

/// Runs lines of etcdctl; each is followed by what it prints.
async fn transcript(served: &Served, lines: &str) -> String {
    let mut out = String::new();
    for line in lines.lines() {
        let args: Vec<&str> = line.split_whitespace().collect();
        let answer = served.etcdctl(&args, "").await;
        let answer = answer.replace("Error:  ", "Error: ").replace(&served.client.to_string(), "ADDRESS");
        out += &format!("$ {line}\n{}\n", answer.trim());
    }
    out
}

/// Users and roles as a first administrator would make them.
async fn set_up(served: &Served) {
    let made = transcript(
        served,
        "user add root:secret\n\
         user grant-role root root\n\
         role add apps\n\
         role grant-permission apps --prefix readwrite a/\n\
         role grant-permission apps read shared\n\
         user add app:word\n\
         user grant-role app apps\n\
         auth enable",
    );
    assert!(made.await.ends_with("Authentication Enabled\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn every_command_of_etcdctl_works() {
    let served = Served::start(None).await;
    let first = transcript(
        &served,
        "auth enable\n\
         user add root:secret\n\
         user add root:secret\n\
         user add app:word\n\
         user add cert --no-password\n\
         user add temporary:x\n\
         role add apps\n\
         role add apps\n\
         role grant-permission apps --prefix readwrite a/\n\
         role grant-permission apps read shared\n\
         role grant-permission apps --from-key write x\n\
         role grant-permission apps write k m\n\
         role get apps\n\
         role revoke-permission apps --from-key x\n\
         role revoke-permission apps k m\n\
         role revoke-permission apps k m\n\
         user grant-role app apps\n\
         user grant-role app nothing\n\
         user grant-role nobody apps\n\
         user get app\n\
         user get app --detail\n\
         user revoke-role app apps\n\
         user revoke-role app apps\n\
         user grant-role app apps\n\
         user delete temporary\n\
         user delete temporary\n\
         user list\n\
         role list\n\
         user grant-role root root\n\
         auth enable",
    );
    expect_test::expect_file!["auth_setup.txt"].assert_eq(&first.await);
    let enabled = transcript(
        &served,
        "put a/1 x\n\
         --user root:wrong put a/1 x\n\
         --user nobody:x put a/1 x\n\
         --user cert:x put a/1 x\n\
         --user root:secret put a/1 x\n\
         --user root:secret put shared s\n\
         --user root:secret put secret s\n\
         --user app:word put a/2 y\n\
         --user app:word get a/ --prefix\n\
         --user app:word get shared\n\
         --user app:word put shared t\n\
         --user app:word get secret\n\
         --user app:word get a --from-key\n\
         --user app:word del a/ --prefix\n\
         --user app:word compact 2\n\
         --user app:word user list\n\
         --user app:word user get app\n\
         --user app:word role get apps\n\
         --user app:word user add x:y\n\
         --user app:word defrag\n\
         --user app:word alarm list\n\
         --user app:word alarm disarm\n\
         --user app:word lease list\n\
         alarm list\n\
         user list\n\
         role list\n\
         --user root:secret user delete root\n\
         --user root:secret role delete root\n\
         --user root:secret role delete apps\n\
         --user app:word get a/ --prefix\n\
         --user root:secret user list\n\
         --user root:secret auth disable\n\
         get shared\n\
         auth disable",
    );
    expect_test::expect_file!["auth_enabled.txt"].assert_eq(&enabled.await);
    let changed = served.etcdctl(&["user", "passwd", "app", "--interactive=false"], "new\n").await;
    assert_eq!(changed, "Password updated\n");
    served.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn locks_elections_and_watches_ask_for_rights() {
    let served = Served::start(None).await;
    set_up(&served).await;
    let ask = async |line: &str| served.etcdctl(&line.split(' ').collect::<Vec<_>>(), "").await;
    assert!(ask("--user app:word lock a/lock echo held").await.contains("held"));
    assert!(ask("--user app:word lock other echo held").await.contains("permission denied"));
    assert!(ask("--user app:word watch other").await.contains("permission denied"));
    assert!(ask("watch a/1").await.contains("user name is empty"));
    // The server's own services ask the same.
    let channel = grpc::channels(&[served.client.to_string()], None).unwrap().remove(0);
    let lock = isopod_kv::LockRequest { name: "a/lock".into(), lease: 0 };
    let refused: Result<isopod_kv::LockResponse, _> = unary(&channel, method::LOCK, lock).await;
    assert_eq!(refused.unwrap_err(), Error::UserEmpty);
    served.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn users_survive_a_restart_and_tokens_do_not_survive_a_new_password() {
    let served = Served::start(None).await;
    set_up(&served).await;
    let login = async |served: &Served, password: &str| -> Result<AuthenticateResponse, Error> {
        let channel = grpc::channels(&[served.client.to_string()], None).unwrap().remove(0);
        let request = AuthenticateRequest { name: "app".to_owned(), password: password.to_owned() };
        unary(&channel, method::AUTHENTICATE, request).await
    };
    let token = login(&served, "word").await.unwrap().token;
    put_with(&served, &token).await.unwrap();
    let invalid = put_with(&served, "no.1").await.unwrap_err();
    assert_eq!(
        (invalid.code(), invalid.message()),
        (Code::Unauthenticated, "etcdserver: invalid auth token")
    );
    // A token from the future: the member has everything there is, and the token is not in it.
    assert!(put_with(&served, "no.999999").await.is_err());
    let passwd = ["--user", "root:secret", "user", "passwd", "app", "--interactive=false"];
    assert_eq!(served.etcdctl(&passwd, "new\n").await, "Password updated\n");
    assert_eq!(put_with(&served, &token).await.unwrap_err().code(), Code::Unauthenticated);
    assert_eq!(login(&served, "word").await, Err(Error::AuthFailed));
    served.engine.checkpoint().await.unwrap();
    let served = served.restart().await;
    assert_eq!(login(&served, "word").await, Err(Error::AuthFailed));
    let token = login(&served, "new").await.unwrap().token;
    put_with(&served, &token).await.unwrap();
    // No password is on the disk.
    for file in std::fs::read_dir(served.dir.path().join("data")).unwrap() {
        let bytes = std::fs::read(file.unwrap().path()).unwrap();
        assert!(!bytes.windows(6).any(|window| window == b"secret"));
    }
    served.stop().await;
}

async fn put_with(served: &Served, token: &str) -> Result<(), tonic::Status> {
    let channel = grpc::channels(&[served.client.to_string()], None).unwrap().remove(0);
    let mut client = tonic::client::Grpc::new(channel);
    client.ready().await.unwrap();
    let mut request = tonic::Request::new(PutRequest::new("a/1", "x"));
    request.metadata_mut().insert("token", token.parse().unwrap());
    let codec = tonic_prost::ProstCodec::<PutRequest, PutResponse>::default();
    let path = http::uri::PathAndQuery::from_static(method::PUT);
    client.unary(request, path, codec).await.map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_names_its_user() {
    let certificates = Certificates::new();
    let served = Served::start(Some(certificates.server_config())).await;
    let store = |name: &str| {
        let (certificate, key) = certificates.client(name);
        let tls = grpc::TlsConfig {
            ca_pem: certificates.ca_pem.clone().into_bytes(),
            identity: Some((certificate.into_bytes(), key.into_bytes())),
            server_name: None,
        };
        grpc::connect(&[format!("https://{}", served.client)], Some(tls)).unwrap()
    };
    let files = tempfile::tempdir().unwrap();
    let (certificate, key) = certificates.client("root");
    let write = |name: &str, text: &str| {
        let path = files.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let (ca, cert, key) =
        (write("ca", &certificates.ca_pem), write("cert", &certificate), write("key", &key));
    let tls = ["--cacert", &ca, "--cert", &cert, "--key", &key];
    assert!(Path::new(&ca).exists());
    for line in [
        "user add root --no-password",
        "user grant-role root root",
        "role add apps",
        "role grant-permission apps readwrite mine",
        "user add app --no-password",
        "user grant-role app apps",
        "auth enable",
    ] {
        let args: Vec<&str> = tls.into_iter().chain(line.split(' ')).collect();
        let answer = served.etcdctl(&args, "").await;
        assert!(!answer.contains("Error"), "{line}: {answer}");
    }
    let app = store("app");
    app.put(PutRequest::new("mine", "1")).await.unwrap();
    assert_eq!(app.put(PutRequest::new("other", "1")).await.unwrap_err(), Error::PermissionDenied);
    assert_eq!(store("root").range(RangeRequest::key("mine")).await.unwrap().count, 1);
    assert_eq!(store("else").range(RangeRequest::key("mine")).await.unwrap_err(), Error::PermissionDenied);
    let listed: Vec<&str> = tls.into_iter().chain(["user", "list"]).collect();
    assert_eq!(served.etcdctl(&listed, "").await, "app\nroot\n");
    served.stop().await;
}
