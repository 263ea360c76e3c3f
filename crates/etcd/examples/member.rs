//! A member on its own: `member DATA_DIR CLIENT_ADDRESS [METRICS_ADDRESS]`. For trying clients and for measuring.

use isopod_etcd::{Config, Listeners, open, serve};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [data_dir, client, metrics @ ..] = &args[..] else {
        return Err("usage: member DATA_DIR CLIENT_ADDRESS [METRICS_ADDRESS]".into());
    };
    let mut config = Config::new(data_dir);
    config.client_urls = vec![format!("http://{client}")];
    let started = std::time::Instant::now();
    let engine = open(config)?;
    let mut listeners = Listeners { client: vec![TcpListener::bind(client).await?], metrics: Vec::new() };
    for address in metrics {
        listeners.metrics.push(TcpListener::bind(address).await?);
    }
    println!("ready in {:?}, revision {}", started.elapsed(), engine.revision());
    let shutdown = CancellationToken::new();
    let stop = shutdown.clone();
    tokio::spawn(async move {
        let _ = tokio::signal::ctrl_c().await;
        stop.cancel();
    });
    serve(engine.clone(), listeners, None, shutdown).await?;
    engine.stop().await;
    Ok(())
}
