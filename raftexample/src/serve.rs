//! Listening: the part that the client side and the peer side have in common.
//!
//! Ports are bound before anything else happens, by [`bind`], so that a taken port is reported before a data directory
//! is touched; connections that arrive meanwhile wait in the kernel's queue. [`accept`] then serves one task per
//! connection until it is told to stop, and lets the requests that are being answered finish.
//!
//! What is left out: limits on the number of connections and on slow clients, beyond the time a header may take.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, ToSocketAddrs};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::sync::{mpsc, watch};

/// Pause after the system refused a connection (usually for want of file descriptors).
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Listens on `port` of `address`, or of all addresses, IPv6 as well as IPv4 where the system has both.
pub fn bind(address: Option<IpAddr>, port: u16) -> io::Result<TcpListener> {
    match address {
        Some(address) => listen(&[SocketAddr::from((address, port))]),
        None => match listen(&[SocketAddr::from((Ipv6Addr::UNSPECIFIED, port))]) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => Err(error),
            // No IPv6 here.
            Err(_) => listen(&[SocketAddr::from((Ipv4Addr::UNSPECIFIED, port))]),
            listener => listener,
        },
    }
}

/// Listens on the address that a host name stands for.
pub fn bind_host(host: &str, port: u16) -> io::Result<TcpListener> {
    let addresses: Vec<SocketAddr> = (host, port).to_socket_addrs()?.collect();
    listen(&addresses)
}

fn listen(addresses: &[SocketAddr]) -> io::Result<TcpListener> {
    let listener = TcpListener::bind(addresses)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Answers requests with `answer` until `stop` becomes true, then finishes those that have begun.
///
/// `header_timeout` limits how long a connection may take for a request's header, idle time before it included.
pub async fn accept<A, F>(
    listener: TcpListener,
    header_timeout: Option<Duration>,
    mut stop: watch::Receiver<bool>,
    answer: A,
) -> io::Result<()>
where
    A: Fn(Request<Incoming>) -> F + Clone + Send + 'static,
    F: Future<Output = Result<Response<Full<Bytes>>, Infallible>> + Send + 'static,
{
    let listener = tokio::net::TcpListener::from_std(listener)?;
    // Every connection holds a sender that is never used: when the last is dropped, all have ended.
    let (open, mut all_closed) = mpsc::channel::<Infallible>(1);
    loop {
        let stream = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    log::warn!("cannot accept a connection: {error}");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            },
            () = told_to_stop(&mut stop) => break,
        };
        // Answers are small and somebody waits for each.
        let _ = stream.set_nodelay(true);
        let mut builder = http1::Builder::new();
        builder.timer(TokioTimer::new()).header_read_timeout(header_timeout).pipeline_flush(true);
        let connection = builder.serve_connection(TokioIo::new(stream), service_fn(answer.clone()));
        let mut stop = stop.clone();
        let open = open.clone();
        tokio::spawn(async move {
            let _open = open;
            tokio::pin!(connection);
            // A connection that fails concerns its client only, who knows already.
            tokio::select! {
                _ = connection.as_mut() => return,
                () = told_to_stop(&mut stop) => connection.as_mut().graceful_shutdown(),
            }
            let _ = connection.await;
        });
    }
    drop(open);
    while all_closed.recv().await.is_some() {}
    Ok(())
}

async fn told_to_stop(stop: &mut watch::Receiver<bool>) {
    // An error means that whoever could tell is gone.
    let _ = stop.wait_for(|stop| *stop).await;
}
