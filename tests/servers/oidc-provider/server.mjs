// The authorization server of the integration tests: `oidc-provider` (npm, certified, pinned in
// package.json) over an in-memory store, with a small resource endpoint and a control listener.
// All OAuth behaviour is the library's; this file is configuration, faults and counters.
//
//   node server.mjs          prints one line, `ready issuer=URL ctl=URL`, and serves 127.0.0.1
//                            until its standard input closes (so that no test run leaves an orphan)
//
// Environment
//   PORT, CTL_PORT (0)       0 takes a free port
//   AT_TTL (2)               seconds that an access token lives; RT_TTL (3600) for a refresh token
//   TLS_KEY, TLS_CERT        PEM files: the issuer is served over https (the control listener never is)
//
// Endpoints                  /token /token/revocation /token/introspection /device/auth /auth /me
//                            /.well-known/openid-configuration, and our own:
//   /api/echo                GET or POST with a bearer token → 200 {user, client, method, body_sha256,
//                            body_length}; else 401 `Bearer realm="…", error="invalid_token", …`
//
// Clients                    pub (no secret) · conf-basic `conf:sec/ret+1` · conf-post `post-secret`
//                            · svc `svc-secret` (client credentials, by Basic)
// Refresh tokens rotate; a spent one that comes back revokes its whole grant.
//
// Controls: POST a JSON object (or nothing) to the control listener
//   /seed {user, client, scope, rt_ttl}   a new grant → {access_token, refresh_token, expires_in,
//                                         scope, token_type, grant_id}; every member has a default
//   /lookup {token}                       what the store holds → {kind, user, client, grant_id,
//                                         scope, consumed, expired}, or 404
//   /held                                 what it holds → {tokens}: the values of all access and refresh tokens
//   /disable {user}, /enable {user}       the account disappears, and comes back
//   /revoke-grant {grant_id}              the grant and all its tokens go, as an administrator does it
//   /set {…}                              any of the settings below → all of them
//   /counts                               the counters below
//   /reset                                counters to 0, events forgotten; settings stay
//   /events                               what happened since the last call, and forgets it

import crypto from 'node:crypto';
import { once } from 'node:events';
import fs from 'node:fs';
import http from 'node:http';
import https from 'node:https';
import { setTimeout as sleep } from 'node:timers/promises';

process.stdin.on('end', () => process.exit(0)).on('error', () => process.exit(0)).resume();

// oidc-provider 9.13 calls URL.parse, which node has from 22.1 on.
URL.parse ??= (url, base) => {
  try {
    return new URL(url, base);
  } catch {
    return null;
  }
};

// Its notices are about production; what else it has to say goes to stderr, stdout is for `ready`.
const expected = /quick start development-only|Unsupported runtime|default \S+ function called/;
console.info = (text) => expected.test(text) || console.error(text);
console.warn = console.info;
const { default: Provider } = await import('oidc-provider');

const { env } = process;

// ===== what the controls change, and what they report =====

const settings = {
  accessTtl: Number(env.AT_TTL ?? 2), // seconds
  refreshTtl: Number(env.RT_TTL ?? 3600), // seconds
  rotate: true, // false: a refresh answers with the refresh token that it was given
  tokenDelayMs: 0, // before the token endpoint does anything
  answerDelayMs: 0, // after it did everything, before its answer leaves
  dropAfterToken: 0, // so many answers of the token endpoint are lost: the socket closes instead
  // Queues of made-up answers, first in first out; each is used `times` (1) times:
  // {status, headers, body, truncate, times}. `truncate`: more is announced than sent, then the
  // socket closes. An object as body is sent as JSON.
  failToken: [], // instead of the token endpoint
  failApi: [], // instead of /me and /api/…
};

const counts = {
  token_requests: 0, // POST /token, whatever the answer, made-up ones included
  refresh_success: 0, // refresh tokens exchanged, also when the answer was then dropped
  client_credentials_success: 0,
  reuse_revocations: 0, // grants revoked because a spent refresh token came back
  revocation_requests: 0,
  api_requests: 0, // /me and /api/…
  api_401: 0,
};

const disabled = new Set();
let events = [];

function set(changes) {
  for (const [name, value] of Object.entries(changes)) {
    if (!(name in settings)) throw new TypeError(`no such setting: ${name}`);
    const known = Array.isArray(settings[name]) ? Array.isArray(value) : typeof value === typeof settings[name];
    if (!known) throw new TypeError(`not a value for ${name}: ${JSON.stringify(value)}`);
    if (name.endsWith('Ttl') && !(Number.isSafeInteger(value) && value > 0)) {
      throw new TypeError(`${name} is a whole number of seconds, at least 1`);
    }
  }
  return Object.assign(settings, changes);
}

// ===== the provider =====

// The library's own memory adapter evicts beyond 1,000 entries; nothing is ever evicted here.
class MapAdapter {
  static byModel = {};
  #entries = new Map();

  constructor(model) {
    MapAdapter.byModel[model] = this;
  }

  ids() {
    return [...this.#entries.keys()];
  }

  async upsert(id, payload) {
    this.#entries.set(id, payload);
  }

  async find(id) {
    return this.#entries.get(id);
  }

  async findByUid(uid) {
    return this.#first((payload) => payload.uid === uid);
  }

  async findByUserCode(userCode) {
    return this.#first((payload) => payload.userCode === userCode);
  }

  async consume(id) {
    this.#entries.get(id).consumed = Math.floor(Date.now() / 1000);
  }

  async destroy(id) {
    this.#entries.delete(id);
  }

  async revokeByGrantId(grantId) {
    for (const [id, payload] of this.#entries) {
      if (payload.grantId === grantId) this.#entries.delete(id);
    }
  }

  #first(matches) {
    for (const payload of this.#entries.values()) if (matches(payload)) return payload;
    return undefined;
  }
}

const confidential = (id, secret, method) => ({ client_id: id, client_secret: secret, token_endpoint_auth_method: method });
const interactive = {
  application_type: 'native',
  redirect_uris: ['http://127.0.0.1/cb'],
  response_types: ['code'],
  grant_types: ['authorization_code', 'refresh_token', 'urn:ietf:params:oauth:grant-type:device_code'],
};
const machine = { redirect_uris: [], response_types: [], grant_types: ['client_credentials'] };

const configuration = {
  adapter: MapAdapter,
  clients: [
    { client_id: 'pub', token_endpoint_auth_method: 'none', ...interactive },
    { ...confidential('conf-basic', 'conf:sec/ret+1', 'client_secret_basic'), ...interactive },
    { ...confidential('conf-post', 'post-secret', 'client_secret_post'), ...interactive },
    { ...confidential('svc', 'svc-secret', 'client_secret_basic'), ...machine },
  ],
  scopes: ['openid', 'offline_access', 'api:read', 'api:write'],
  claims: { openid: ['sub'], profile: ['name'] },
  cookies: { keys: ['for-tests-only'] },
  pkce: { required: () => true },
  clockTolerance: 0, // the library's default lets tokens live 15 s longer
  rotateRefreshToken: () => settings.rotate,
  ttl: {
    AccessToken: () => settings.accessTtl,
    ClientCredentials: () => settings.accessTtl,
    RefreshToken: () => settings.refreshTtl,
    AuthorizationCode: 60,
    DeviceCode: 300,
    Grant: 86_400,
    IdToken: 3600,
    Interaction: 600,
    Session: 86_400,
  },
  async findAccount(ctx, sub) {
    if (disabled.has(sub)) return undefined;
    return { accountId: sub, claims: async () => ({ sub, name: `User ${sub}` }) };
  },
  features: {
    clientCredentials: { enabled: true },
    deviceFlow: { enabled: true },
    devInteractions: { enabled: true },
    introspection: { enabled: true },
    resourceIndicators: { enabled: false },
    revocation: { enabled: true },
  },
};

function watch(provider) {
  const log = (event, ctx, more) =>
    events.push({ t: Date.now(), event, client: ctx?.oidc?.client?.clientId, grant_type: ctx?.oidc?.params?.grant_type, ...more });

  provider.on('grant.success', (ctx) => {
    log('grant.success', ctx);
    if (ctx.oidc.params.grant_type === 'refresh_token') counts.refresh_success += 1;
    if (ctx.oidc.params.grant_type === 'client_credentials') counts.client_credentials_success += 1;
  });
  provider.on('grant.error', (ctx, error) => {
    log('grant.error', ctx, { error: error.error, detail: error.error_detail });
    if (error.error_detail === 'refresh token already used') counts.reuse_revocations += 1;
  });
  provider.on('grant.revoked', (ctx, grantId) => log('grant.revoked', ctx, { grant_id: grantId }));
  for (const event of ['revocation.error', 'userinfo.error', 'server_error']) {
    provider.on(event, (ctx, error) => log(event, ctx, { error: error.error ?? String(error), detail: error.error_detail }));
  }
}

async function seed({ user = 'alice', client: clientId = 'pub', scope = 'openid offline_access api:read', rt_ttl: expiresIn }) {
  const client = await provider.Client.find(clientId);
  if (!client) throw new TypeError(`no such client: ${clientId}`);
  const grant = new provider.Grant({ accountId: user, clientId });
  grant.addOIDCScope(scope);
  const grantId = await grant.save();
  const common = { accountId: user, client, grantId, gty: 'authorization_code', scope, claims: {} };
  const refreshToken = new provider.RefreshToken({ ...common, rotations: 0, authTime: Math.floor(Date.now() / 1000), expiresIn });
  const accessToken = new provider.AccessToken(common);
  return {
    access_token: await accessToken.save(),
    refresh_token: await refreshToken.save(),
    expires_in: settings.accessTtl,
    scope,
    token_type: 'Bearer',
    grant_id: grantId,
  };
}

async function lookup({ token: value }) {
  for (const model of ['AccessToken', 'RefreshToken', 'ClientCredentials']) {
    const token = await provider[model].find(value, { ignoreExpiration: true });
    if (token) {
      const { kind, accountId: user, clientId: client, grantId: grant_id, scope, consumed, isExpired: expired } = token;
      return { kind, user, client, grant_id, scope, consumed: Boolean(consumed), expired };
    }
  }
  return undefined;
}

// The id of an opaque token is its value.
function held() {
  return { tokens: ['AccessToken', 'RefreshToken'].flatMap((model) => MapAdapter.byModel[model]?.ids() ?? []) };
}

async function revokeGrant({ grant_id: id }) {
  for (const model of ['AccessToken', 'RefreshToken', 'AuthorizationCode', 'DeviceCode']) {
    await provider[model].revokeByGrantId(id);
  }
  await provider.Grant.adapter.destroy(id);
  return {};
}

// ===== faults =====

/** The next made-up answer of a queue, or nothing. */
function nextFault(queue) {
  const fault = queue[0];
  if (!fault) return undefined;
  fault.times = (fault.times ?? 1) - 1;
  if (fault.times <= 0) queue.shift();
  return fault;
}

async function readAll(req) {
  const chunks = [];
  for await (const chunk of req) chunks.push(chunk);
  return Buffer.concat(chunks);
}

async function answerFault(req, res, { status = 500, headers = {}, body = '', truncate = false }) {
  await readAll(req); // unread bytes would turn the close of a truncated answer into a reset
  const text = typeof body === 'string' ? body : JSON.stringify(body);
  const length = Buffer.byteLength(text);
  for (const [name, value] of Object.entries({ 'content-type': 'application/json', ...headers })) res.setHeader(name, value);
  res.statusCode = status;
  if (!truncate) return void res.end(text);
  res.setHeader('content-length', length + 64);
  if (length === 0) res.flushHeaders();
  res.write(text, () => req.socket.end(() => req.socket.destroy()));
}

// ===== endpoints =====

async function token(req, res) {
  counts.token_requests += 1;
  if (settings.tokenDelayMs > 0) await sleep(settings.tokenDelayMs);
  const fault = nextFault(settings.failToken);
  if (fault) return answerFault(req, res, fault);
  // The library is done, and has rotated, when it ends the response.
  const end = res.end.bind(res);
  if (settings.dropAfterToken > 0) {
    settings.dropAfterToken -= 1;
    res.end = () => void req.socket.destroy();
  } else if (settings.answerDelayMs > 0) {
    const delay = settings.answerDelayMs;
    res.end = (...args) => void setTimeout(end, delay, ...args);
  }
  return issuerCallback(req, res);
}

async function api(req, res, path) {
  counts.api_requests += 1;
  res.on('finish', () => {
    if (res.statusCode === 401) counts.api_401 += 1;
  });
  const fault = nextFault(settings.failApi);
  if (fault) return answerFault(req, res, fault);
  if (path === '/me') return issuerCallback(req, res);
  if (path !== '/api/echo') return reply(res, 404, { error: 'not_found' });
  if (req.method !== 'GET' && req.method !== 'POST') return reply(res, 405, { error: 'method_not_allowed' }, { allow: 'GET, POST' });
  return echo(req, res);
}

async function echo(req, res) {
  const body = await readAll(req);
  const refuse = (description) =>
    reply(res, 401, { error: 'invalid_token', error_description: description }, {
      'www-authenticate': `Bearer realm="${issuer}", error="invalid_token", error_description="${description}"`,
    });

  const value = /^Bearer +(\S+)$/i.exec(req.headers.authorization ?? '')?.[1];
  if (!value) return refuse('no access token provided');
  const accessToken = (await provider.AccessToken.find(value)) ?? (await provider.ClientCredentials.find(value));
  if (!accessToken) return refuse('access token is unknown or has expired');
  if (disabled.has(accessToken.accountId)) return refuse('the account is not available');
  return reply(res, 200, {
    user: accessToken.accountId ?? null,
    client: accessToken.clientId,
    method: req.method,
    body_sha256: crypto.createHash('sha256').update(body).digest('hex'),
    body_length: body.length,
  });
}

function reply(res, status, value, headers = {}) {
  res.writeHead(status, { 'content-type': 'application/json', 'cache-control': 'no-store', ...headers });
  res.end(JSON.stringify(value));
}

async function serve(req, res) {
  const path = req.url.split('?', 1)[0];
  if (req.method === 'POST' && path === '/token') return token(req, res);
  if (req.method === 'POST' && path === '/token/revocation') counts.revocation_requests += 1;
  if (path === '/me' || path.startsWith('/api/')) return api(req, res, path);
  return issuerCallback(req, res);
}

const controls = {
  '/seed': seed,
  '/lookup': lookup,
  '/held': held,
  '/disable': ({ user }) => disabled.add(user) && {},
  '/enable': ({ user }) => ({ was_disabled: disabled.delete(user) }),
  '/revoke-grant': revokeGrant,
  '/set': set,
  '/counts': () => counts,
  '/reset': () => {
    for (const name of Object.keys(counts)) counts[name] = 0;
    events = [];
    return counts;
  },
  '/events': () => {
    const past = events;
    events = [];
    return past;
  },
};

async function control(req, res) {
  const body = await readAll(req);
  const run = req.method === 'POST' && Object.hasOwn(controls, req.url) && controls[req.url];
  try {
    const value = run && (await run(body.length ? JSON.parse(body) : {}));
    reply(res, value ? 200 : 404, value || { error: `nothing at ${req.method} ${req.url}` });
  } catch (error) {
    reply(res, 400, { error: String(error) });
  }
}

// ===== start: the port first, since the issuer's name holds it =====

async function listen(server, handler, port) {
  server.keepAliveTimeout = 60_000; // a pooled connection must not close between two steps of a test
  server.on('request', (req, res) => {
    // A client that hangs up in mid-request is part of many tests; it must not end the server.
    handler(req, res).catch((error) => (res.headersSent ? res.destroy() : reply(res, 500, { error: String(error) })));
  });
  server.listen({ host: '127.0.0.1', port: Number(port ?? 0), backlog: 4096 });
  await once(server, 'listening');
  return server.address().port;
}

const tls = env.TLS_KEY && env.TLS_CERT && { key: fs.readFileSync(env.TLS_KEY), cert: fs.readFileSync(env.TLS_CERT) };
const port = await listen(tls ? https.createServer(tls) : http.createServer(), serve, env.PORT);
const issuer = `${tls ? 'https' : 'http'}://127.0.0.1:${port}`;
const provider = new Provider(issuer, configuration);
const issuerCallback = provider.callback();
watch(provider);
const ctlPort = await listen(http.createServer(), control, env.CTL_PORT);
console.log(`ready issuer=${issuer} ctl=http://127.0.0.1:${ctlPort}`);
