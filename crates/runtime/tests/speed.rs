//! Not a timed test: prints what the start of a pod takes, step by step.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::time::Instant;

use isopod_cri::RuntimeService;
use isopod_cri::v1::*;
use support::{Node, container};

#[tokio::test(flavor = "multi_thread")]
async fn print_the_time_of_each_step() {
    let node = Node::new().await;
    for round in 0..5 {
        let config = node.sandbox(&format!("pod{round}"));
        let begin = Instant::now();
        let sandbox = node.run_sandbox(&config).await;
        let sandboxed = begin.elapsed();
        let id = node.create(&sandbox, container("main", "exec sleep 1000")).await;
        let created = begin.elapsed();
        node.start(&id).await;
        let started = begin.elapsed();
        let begin = Instant::now();
        node.exec(&id, "true").await;
        let executed = begin.elapsed();
        let begin = Instant::now();
        node.runtime.remove_pod_sandbox(RemovePodSandboxRequest { pod_sandbox_id: sandbox }).await.unwrap();
        println!(
            "sandbox {sandboxed:?}, create {:?}, start {:?}, exec {executed:?}, remove {:?}",
            created - sandboxed,
            started - created,
            begin.elapsed()
        );
    }
}
