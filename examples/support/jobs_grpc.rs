//! What `tonic-build` makes of a small service, by hand, since that needs `protoc`: `service Jobs { Complete, Delete }`.
//! A message is a text.

use http::uri::PathAndQuery;
use std::{convert::Infallible, net::SocketAddr};
use tonic::{
    Request, Response, Status,
    body::Body,
    client::GrpcService,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
    codegen::{Body as HttpBody, Bytes, StdError},
    transport::{Server, server::TcpIncoming},
};
use tower::service_fn;
use tower_reauth::BoxError;

const COMPLETE: &str = "/jobs.Jobs/Complete";
const DELETE: &str = "/jobs.Jobs/Delete";

/// The client, over any transport.
#[derive(Clone)]
pub(crate) struct JobsClient<T>(tonic::client::Grpc<T>);

impl<T> JobsClient<T>
where
    T: GrpcService<Body, Error: Into<StdError>>,
    T::ResponseBody: HttpBody<Data = Bytes, Error: Into<StdError> + Send> + Send + 'static,
{
    pub(crate) fn new(transport: T) -> Self {
        Self(tonic::client::Grpc::new(transport))
    }

    pub(crate) async fn complete(&mut self, job: impl Into<String>) -> Result<Response<String>, Status> {
        self.call(COMPLETE, job.into()).await
    }

    pub(crate) async fn delete(&mut self, job: impl Into<String>) -> Result<Response<String>, Status> {
        self.call(DELETE, job.into()).await
    }

    async fn call(&mut self, path: &'static str, job: String) -> Result<Response<String>, Status> {
        self.0.ready().await.map_err(|error| Status::from_error(error.into()))?;
        self.0.unary(Request::new(job), PathAndQuery::from_static(path), Text).await
    }
}

/// The server, which asks whose a bearer token is. Answers where it listens.
pub(crate) async fn serve<U>(user: U) -> Result<SocketAddr, BoxError>
where
    U: Fn(Option<&str>) -> Option<String> + Clone + Send + Sync + 'static,
{
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await?;
    let address = listener.local_addr()?;
    let service = service_fn(move |request: http::Request<Body>| {
        let user = user.clone();
        async move { Ok::<_, Infallible>(answer(user, request).await) }
    });
    tokio::spawn(Server::builder().serve_with_incoming(service, TcpIncoming::from(listener)));
    Ok(address)
}

async fn answer<U>(user: U, request: http::Request<Body>) -> http::Response<Body>
where
    U: Fn(Option<&str>) -> Option<String> + Clone + Send + Sync + 'static,
{
    let done = match request.uri().path() {
        COMPLETE => "completed",
        DELETE => "deleted",
        _ => return Status::unimplemented("no such method").into_http(),
    };
    let method = service_fn(move |request: Request<String>| {
        let bearer = request.metadata().get("authorization").and_then(|value| value.to_str().ok());
        // An error before the first message is a response of headers only: its status is in them, and not in trailers.
        let answer = match user(bearer) {
            Some(user) => Ok(Response::new(format!("{user} {done} {}", request.get_ref()))),
            None => Err(Status::unauthenticated("without a token, or one that is not taken")),
        };
        std::future::ready(answer)
    });
    tonic::server::Grpc::new(Text).unary(method, request).await
}

#[derive(Clone, Copy)]
pub(crate) struct Text;

impl Codec for Text {
    type Encode = String;
    type Decode = String;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Text {
    type Item = String;
    type Error = Status;

    fn encode(&mut self, text: String, to: &mut EncodeBuf<'_>) -> Result<(), Status> {
        bytes::BufMut::put_slice(to, text.as_bytes());
        Ok(())
    }
}

impl Decoder for Text {
    type Item = String;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<String>, Status> {
        let text = bytes::Buf::copy_to_bytes(from, bytes::Buf::remaining(from));
        String::from_utf8(text.into()).map(Some).map_err(|_| Status::invalid_argument("not a text"))
    }
}
