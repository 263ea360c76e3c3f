//! Port-forward over SPDY: for each connection of the client, a stream for data and one for errors.
//!
//! The pair shares the header `requestID`; clients of old versions send none, and then pair streams by order.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinSet;

use crate::Error;
use crate::backend::Backend;
use crate::command::CHUNK_BYTES;
use crate::spdy::{Connection, Reader, Stream, Writer};

/// The only version there is.
pub(crate) const PROTOCOL: &str = "portforward.k8s.io";
/// The second stream of a pair must follow the first within this time, as in upstream.
const PAIR_TIMEOUT: Duration = Duration::from_secs(30);
/// Connections of one client at a time.
const PAIRS_MAX: usize = 500;

struct Half {
    data: Option<Stream>,
    error: Option<Stream>,
    since: Instant,
}

/// Serves a port-forward until the client leaves.
pub(crate) async fn serve(
    mut connection: Connection,
    backend: Arc<dyn Backend>,
    sandbox: String,
) -> Result<(), Error> {
    let mut halves: HashMap<String, Half> = HashMap::new();
    let mut pairs = JoinSet::new();
    let mut unnumbered = 0u64;
    loop {
        let stream = tokio::select! {
            stream = connection.accept() => match stream {
                Some(stream) => stream,
                None => return Ok(()),
            },
            Some(_) = pairs.join_next() => continue,
        };
        halves.retain(|_, half| half.since.elapsed() < PAIR_TIMEOUT);
        if halves.len() + pairs.len() >= PAIRS_MAX {
            let mut writer = stream.writer;
            writer.reset().await?;
            continue;
        }
        let is_error = match stream.headers.get("streamType") {
            Some("data") => false,
            Some("error") => true,
            other => return Err(Error::protocol(format!("unexpected stream of type {other:?}"))),
        };
        let id = stream.headers.get("requestID").map(str::to_owned).unwrap_or_else(|| {
            // The error stream comes first and the data stream next.
            unnumbered += 1;
            format!("unnumbered-{}", (unnumbered - 1) / 2)
        });
        let half = halves.entry(id.clone()).or_insert_with(|| Half {
            data: None,
            error: None,
            since: Instant::now(),
        });
        let slot = if is_error { &mut half.error } else { &mut half.data };
        if slot.replace(stream).is_some() {
            return Err(Error::protocol(format!("two streams of one type for request {id}")));
        }
        if let Some(Half { data: Some(_), error: Some(_), .. }) = halves.get(&id)
            && let Some(Half { data: Some(data), error: Some(error), .. }) = halves.remove(&id)
        {
            let (backend, sandbox) = (backend.clone(), sandbox.clone());
            pairs.spawn(async move { forward(&*backend, &sandbox, data, error).await });
        }
    }
}

async fn forward(backend: &dyn Backend, sandbox: &str, data: Stream, error: Stream) {
    let mut report = error.writer;
    let Stream { headers, reader, writer } = data;
    let outcome = async {
        let port = headers
            .get("port")
            .and_then(|port| port.parse::<u16>().ok())
            .filter(|port| *port > 0)
            .ok_or_else(|| Error::protocol("the header port is missing or no port"))?;
        let copied = async {
            let port_stream = backend.connect(sandbox, port).await?;
            copy(reader, writer, port_stream).await
        };
        copied
            .await
            .map_err(|e| Error::Backend(format!("error forwarding port {port} to pod {sandbox}: {e}")))
    }
    .await;
    if let Err(e) = outcome {
        let _ = report.write(e.to_string().into()).await;
    }
    let _ = report.finish().await;
}

/// Copies both ways until the port has closed its direction, and the client or the port the other.
async fn copy(
    mut from_client: Reader,
    mut to_client: Writer,
    port: Box<dyn crate::PortStream>,
) -> Result<(), Error> {
    let (mut from_port, mut to_port) = tokio::io::split(port);
    let inbound = async {
        while let Some(bytes) = from_client.next().await {
            if to_port.write_all(&bytes).await.is_err() {
                return;
            }
        }
        let _ = to_port.shutdown().await;
    };
    let outbound = async {
        let mut buffer = vec![0; CHUNK_BYTES];
        loop {
            match from_port.read(&mut buffer).await {
                Ok(0) => break to_client.finish().await,
                Ok(n) => to_client.write(bytes::Bytes::copy_from_slice(&buffer[..n])).await?,
                Err(e) => {
                    to_client.finish().await?;
                    break Err(e.into());
                }
            }
        }
    };
    tokio::pin!(inbound, outbound);
    tokio::select! {
        outcome = &mut outbound => outcome,
        () = &mut inbound => outbound.await,
    }
}
