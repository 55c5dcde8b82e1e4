//! A real gRPC server on loopback, by hand, since generated ones need `protoc`. It takes the issuer's accepted tokens, and
//! answers others with UNAUTHENTICATED before the first message: in headers only. It records what reaches it.
//!
//! | method of `/t.T/` | answer |
//! |---|---|
//! | `Echo` | the message |
//! | `Collect` (client streaming) | the messages, joined |
//! | `List` (server streaming) | the words of the message, one by one |
//! | `Chat` (both) | each message, as it comes |
//! | `Late` (server streaming) | a message, then UNAUTHENTICATED in trailers |
//! | `Bare` | UNAUTHENTICATED in trailers, without a message |
//! | `Forbidden` | PERMISSION_DENIED |
//! | `Proxy` | HTTP 401, as a proxy says it, once; then the message |
//! | `Hang` | nothing |

use crate::{
    jobs_grpc::Text,
    kit::{Issuer, start},
};
use bytes::Bytes;
use futures_util::{Stream, StreamExt, stream};
use http::{HeaderMap, HeaderValue, header, uri::PathAndQuery};
use http_body::Frame;
use http_body_util::{BodyExt, Full, StreamBody};
use std::{
    convert::Infallible,
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
};
use tokio::{sync::Notify, task::JoinHandle};
use tonic::{
    Request, Response, Status, Streaming,
    body::Body,
    client::GrpcService,
    transport::{Channel, Server, server::TcpIncoming},
};
use tower::service_fn;
use tower_reauth::BoxError;

/// A call as it came.
#[derive(Clone, Debug)]
pub struct Call {
    pub method: String,
    pub headers: HeaderMap,
    /// The body's bytes; empty for `Chat`, which is not read to its end before it is answered.
    pub body: Bytes,
}

impl Call {
    pub fn token(&self) -> &str {
        let value = self.headers.get(header::AUTHORIZATION).map_or("-", |value| value.to_str().unwrap());
        value.strip_prefix("Bearer ").unwrap_or(value)
    }
}

pub struct GrpcServer {
    origin: String,
    books: Arc<Books>,
    server: JoinHandle<()>,
}

struct Books {
    issuer: Issuer,
    calls: Mutex<Vec<Call>>,
    proxy_has_refused: AtomicBool,
    arrived: Notify,
}

impl GrpcServer {
    pub async fn start(issuer: &Issuer) -> Self {
        let books = Arc::new(Books {
            issuer: issuer.clone(),
            calls: Mutex::default(),
            proxy_has_refused: AtomicBool::new(false),
            arrived: Notify::new(),
        });
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let origin = format!("http://{}", listener.local_addr().unwrap());
        let serving = books.clone();
        let service = service_fn(move |request: http::Request<Body>| {
            let books = serving.clone();
            async move {
                let mut response = books.answer(request).await;
                // The server's clock is the test's: a later one would let tokens expire.
                let date = HeaderValue::try_from(httpdate::fmt_http_date(start())).unwrap();
                response.headers_mut().insert(header::DATE, date);
                Ok::<_, Infallible>(response)
            }
        });
        let serve = Server::builder().serve_with_incoming(service, TcpIncoming::from(listener));
        let server = tokio::spawn(async move { serve.await.unwrap() });
        Self { origin, books, server }
    }

    pub fn origin(&self) -> &str {
        &self.origin
    }

    pub fn channel(&self) -> Channel {
        Channel::from_shared(self.origin.clone()).unwrap().connect_lazy()
    }

    /// The calls since the last time.
    pub fn calls(&self) -> Vec<Call> {
        std::mem::take(&mut self.books.calls.lock().unwrap())
    }

    /// The tokens of the calls since the last time.
    pub fn tokens(&self) -> Vec<String> {
        self.calls().iter().map(|call| call.token().to_owned()).collect()
    }

    /// Until a call hangs.
    pub async fn arrived(&self) {
        self.books.arrived.notified().await;
    }
}

impl Drop for GrpcServer {
    fn drop(&mut self) {
        self.server.abort();
    }
}

// ===== the server's side =====

type Messages = Pin<Box<dyn Stream<Item = Result<String, Status>> + Send>>;

impl Books {
    async fn answer(&self, request: http::Request<Body>) -> http::Response<Body> {
        let (parts, body) = request.into_parts();
        let method = parts.uri.path().trim_start_matches("/t.T/").to_owned();
        let (bytes, body) = match method == "Chat" {
            true => (Bytes::new(), body),
            false => match body.collect().await {
                Ok(body) => {
                    let bytes = body.to_bytes();
                    (bytes.clone(), Body::new(Full::new(bytes)))
                }
                Err(status) => return status.into_http(), // the client has gone
            },
        };
        let call = Call { method: method.clone(), headers: parts.headers.clone(), body: bytes };
        let taken = self.issuer.books().accepted.contains(&call.token().to_owned());
        self.calls.lock().unwrap().push(call);
        if method == "Proxy" && !self.proxy_has_refused.swap(true, Ordering::Relaxed) {
            return http::Response::builder().status(401).body(Body::new(Full::from("<html>who?</html>"))).unwrap();
        }
        if !taken {
            return Status::unauthenticated("a token that is not taken").into_http();
        }
        let request = http::Request::from_parts(parts, body);
        let mut grpc = tonic::server::Grpc::new(Text);
        match &*method {
            "Echo" | "Proxy" => grpc.unary(service_fn(echo), request).await,
            "Collect" => grpc.client_streaming(service_fn(collect), request).await,
            "List" => grpc.server_streaming(service_fn(list), request).await,
            "Chat" => grpc.streaming(service_fn(chat), request).await,
            "Late" => grpc.server_streaming(service_fn(late), request).await,
            "Bare" => {
                let mut trailers = HeaderMap::new();
                trailers.insert("grpc-status", 16.into());
                let frames = stream::iter([Ok::<_, Infallible>(Frame::<Bytes>::trailers(trailers))]);
                let response = http::Response::builder().header("content-type", "application/grpc");
                response.body(Body::new(StreamBody::new(frames))).unwrap()
            }
            "Hang" => {
                self.arrived.notify_one();
                std::future::pending().await
            }
            _ => Status::permission_denied("not for you").into_http(),
        }
    }
}

async fn echo(request: Request<String>) -> Result<Response<String>, Status> {
    Ok(Response::new(request.into_inner()))
}

async fn collect(request: Request<Streaming<String>>) -> Result<Response<String>, Status> {
    let messages: Vec<_> = request.into_inner().collect().await;
    let messages: Result<Vec<String>, Status> = messages.into_iter().collect();
    Ok(Response::new(messages?.join(" ")))
}

async fn list(request: Request<String>) -> Result<Response<Messages>, Status> {
    let words: Vec<_> = request.get_ref().split(' ').map(|word| Ok(word.to_owned())).collect();
    Ok(Response::new(Box::pin(stream::iter(words))))
}

async fn chat(request: Request<Streaming<String>>) -> Result<Response<Messages>, Status> {
    Ok(Response::new(Box::pin(request.into_inner())))
}

async fn late(request: Request<String>) -> Result<Response<Messages>, Status> {
    let answers = [Ok(request.into_inner()), Err(Status::unauthenticated("after the first message"))];
    Ok(Response::new(Box::pin(stream::iter(answers))))
}

// ===== the client's side: what `tonic-build` would make =====

#[derive(Clone)]
pub struct Client<T>(tonic::client::Grpc<T>);

impl<T> Client<T>
where
    T: GrpcService<Body, Error: Into<BoxError>>,
    T::ResponseBody: http_body::Body<Data = Bytes, Error: Into<BoxError> + Send> + Send + 'static,
{
    pub fn new(transport: T) -> Self {
        Self(tonic::client::Grpc::new(transport))
    }

    async fn ready(&mut self) -> Result<(), Status> {
        self.0.ready().await.map_err(|error| Status::from_error(error.into()))
    }

    pub async fn unary(&mut self, method: &'static str, request: Request<String>) -> Result<String, Status> {
        self.ready().await?;
        let answer = self.0.unary(request, PathAndQuery::from_static(method), Text).await?;
        Ok(answer.into_inner())
    }

    pub async fn echo(&mut self, message: impl Into<String>) -> Result<String, Status> {
        self.unary("/t.T/Echo", Request::new(message.into())).await
    }

    pub async fn collect(&mut self, messages: Vec<String>) -> Result<String, Status> {
        self.ready().await?;
        let (request, path) = (Request::new(stream::iter(messages)), PathAndQuery::from_static("/t.T/Collect"));
        Ok(self.0.client_streaming(request, path, Text).await?.into_inner())
    }

    /// All messages, and how it ended.
    pub async fn list(
        &mut self,
        method: &'static str,
        message: &str,
    ) -> Result<(Vec<String>, Result<(), Status>), Status> {
        self.ready().await?;
        let path = PathAndQuery::from_static(method);
        let mut answers = self.0.server_streaming(Request::new(message.to_owned()), path, Text).await?.into_inner();
        let mut messages = Vec::new();
        loop {
            match answers.message().await {
                Ok(Some(message)) => messages.push(message),
                Ok(None) => return Ok((messages, Ok(()))),
                Err(status) => return Ok((messages, Err(status))),
            }
        }
    }

    pub async fn chat(
        &mut self,
        messages: impl Stream<Item = String> + Send + 'static,
    ) -> Result<Streaming<String>, Status> {
        self.ready().await?;
        let path = PathAndQuery::from_static("/t.T/Chat");
        Ok(self.0.streaming(Request::new(messages), path, Text).await?.into_inner())
    }
}
