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
use hyper::body::{Body, Incoming};
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
pub async fn accept<A, F, B>(
    listener: TcpListener,
    header_timeout: Option<Duration>,
    mut stop: watch::Receiver<bool>,
    answer: A,
) -> io::Result<()>
where
    A: Fn(Request<Incoming>) -> F + Clone + Send + 'static,
    F: Future<Output = Result<Response<B>, Infallible>> + Send + 'static,
    B: Body<Data = Bytes, Error = Infallible> + Send + 'static,
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
        builder.timer(TokioTimer::new()).header_read_timeout(header_timeout);
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
    // Connections that nobody has accepted are closed by this, and new ones refused.
    drop(listener);
    drop(open);
    while all_closed.recv().await.is_some() {}
    Ok(())
}

async fn told_to_stop(stop: &mut watch::Receiver<bool>) {
    // An error means that whoever could tell is gone.
    let _ = stop.wait_for(|stop| *stop).await;
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::Full;
    use std::io::{Read, Write};
    use std::net::TcpStream;
    use tokio::sync::Notify;

    #[test]
    fn a_taken_port_is_an_error() {
        let listener = bind(Some(Ipv4Addr::LOCALHOST.into()), 0).unwrap();
        let port = listener.local_addr().unwrap().port();
        assert_eq!(bind_host("127.0.0.1", port).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        assert_eq!(bind(None, port).unwrap_err().kind(), io::ErrorKind::AddrInUse);
    }

    #[test]
    fn all_addresses_are_served() {
        let listener = bind(None, 0).unwrap();
        let port = listener.local_addr().unwrap().port();
        assert!(TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok());
    }

    #[test]
    fn stopping_finishes_what_has_begun_and_closes_what_is_idle() {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let listener = bind_host("127.0.0.1", 0).unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = watch::channel(false);
        let (begun, go_on) = (std::sync::Arc::new(Notify::new()), std::sync::Arc::new(Notify::new()));
        let gates = (begun.clone(), go_on.clone());
        let server = runtime.spawn(accept(listener, None, stopped, move |_| {
            let (begun, go_on) = gates.clone();
            async move {
                begun.notify_one();
                go_on.notified().await;
                Ok(Response::new(Full::new(Bytes::from_static(b"finished"))))
            }
        }));
        let mut busy = TcpStream::connect(address).unwrap();
        busy.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
        runtime.block_on(begun.notified());
        let mut idle = TcpStream::connect(address).unwrap();
        idle.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        stop.send(true).unwrap();
        let mut rest = Vec::new();
        // Closed by the server: an end, or a reset if it had never been accepted.
        let end = idle.read_to_end(&mut rest).map_err(|error| error.kind());
        assert!(matches!(end, Ok(0) | Err(io::ErrorKind::ConnectionReset)), "{end:?}");
        assert!(!server.is_finished(), "somebody still waits for an answer");
        go_on.notify_one();
        busy.read_to_end(&mut rest).unwrap();
        assert!(rest.ends_with(b"finished"));
        runtime.block_on(server).unwrap().unwrap();
    }
}
