// A client made by openapi-typescript and openapi-fetch against a running server: what its types promise is
// what comes, and what an endpoint gets verifies with the Standard Webhooks library for JavaScript. Run by scripts/test-clients, which sets POSTHORN_URL and POSTHORN_API_KEY.

import assert from "node:assert/strict";
import { createPublicKey, verify } from "node:crypto";
import { createServer } from "node:http";
import { once } from "node:events";
import type { AddressInfo } from "node:net";
import { buffer } from "node:stream/consumers";
import { test, type TestContext } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import createClient from "openapi-fetch";
import { Webhook, WebhookVerificationError } from "standardwebhooks";
import type { components, paths } from "./schema.js";

type Schemas = components["schemas"];

const baseUrl = environment("POSTHORN_URL");
const client = createClient<paths>({
  baseUrl,
  headers: { Authorization: `Bearer ${environment("POSTHORN_API_KEY")}` },
});

test("a subscription lives, delivers and goes", { timeout: 30_000 }, async (t) => {
  const receiver = await startReceiver();
  t.after(receiver.close);

  const created = await client.POST("/subscriptions/", {
    body: { target_url: receiver.url, description: "made by a generated client" },
  });
  const subscription: Schemas["CreatedSubscription"] = present(created.data);
  assert.equal(subscription.description, "made by a generated client");
  assert.equal(created.response.status, 201);

  const path = { id: subscription.id };
  const cleared = await client.PUT("/subscriptions/{id}", { params: { path }, body: { description: null } });
  assert.equal(present(cleared.data).description, null);
  assert.equal(present(cleared.data).target_url, receiver.url, "what is absent stays");

  const payload = { order: 4711, lines: [{ sku: "föö", price: 1.5 }], note: null };
  const accepted = await client.POST("/ingest/{subscription_id}", {
    params: { path: { subscription_id: subscription.id } },
    body: payload,
  });
  const { delivery_id } = present(accepted.data);

  const { delivery, attempts } = await untilSuccess(delivery_id);
  assert.equal(attempts.at(-1)?.status_code, 204);
  assert.ok(Date.parse(present(delivery.completed_at ?? undefined)) >= Date.parse(delivery.created_at));
  assert.deepEqual(receiver.received.map(({ body }) => body.toString()), [JSON.stringify(payload)]);

  const since = new Date(Date.now() - 60_000).toISOString();
  const listed = await client.GET("/subscriptions/{id}/deliveries", {
    params: { path, query: { status: "success", since } },
  });
  assert.deepEqual(present(listed.data).items.map((item) => item.id), [delivery_id]);
  assert.equal(present(listed.data).next_cursor, null);

  const deleted = await client.DELETE("/subscriptions/{id}", { params: { path } });
  assert.equal(deleted.response.status, 204);

  const gone = await client.GET("/subscriptions/{id}", { params: { path } });
  const problem: Schemas["Problem"] = present(gone.error);
  assert.equal(problem.status, 404);
  assert.match(problem.type, /^\/problems\//);
  assert.equal(gone.response.headers.get("content-type"), "application/problem+json");
});

test("what is received verifies with the library of Standard Webhooks", { timeout: 30_000 }, async (t) => {
  const { subscription, receive } = await subscribe(t, {});
  const before = await receive({ price: "5 €" });
  const old = new Webhook(subscription.signing_secret);
  assert.deepEqual(old.verify(before.body, before.headers), { price: "5 €" });
  assert.throws(() => old.verify(Buffer.from('{"price":"6 €"}'), before.headers), WebhookVerificationError);
  const others = new Webhook(`whsec_${Buffer.alloc(32).toString("base64")}`);
  assert.throws(() => others.verify(before.body, before.headers), WebhookVerificationError);

  const rotated = await rotate(subscription.id);
  const during = await receive({ price: null });
  for (const secret of [subscription.signing_secret, rotated]) {
    assert.deepEqual(new Webhook(secret).verify(during.body, during.headers), { price: null });
    assert.throws(() => new Webhook(secret).verify(before.body, during.headers), WebhookVerificationError);
  }
  assert.throws(() => new Webhook(rotated).verify(before.body, before.headers), WebhookVerificationError);
});

test("what is received verifies with a public key", { timeout: 30_000 }, async (t) => {
  const { subscription, receive } = await subscribe(t, { asymmetric_signature: true });
  const before = await receive({ price: "5 €" });
  assert.deepEqual(new Webhook(subscription.signing_secret).verify(before.body, before.headers), { price: "5 €" });
  const [old] = await publicKeys(subscription.id);
  assert.ok(verifies(before, old));
  assert.ok(!verifies({ ...before, body: Buffer.from('{"price":"6 €"}') }, old));

  await rotate(subscription.id);
  const during = await receive(5);
  const keys = await publicKeys(subscription.id);
  assert.equal(keys.length, 2);
  assert.equal(keys[1], old);
  for (const key of keys) assert.ok(verifies(during, key));
  assert.ok(!verifies(before, keys[0]));
});

test("a tenant's limit is set and cleared", async () => {
  const params = { path: { tenant: "generated" } };
  const ingest_limit = { requests_per_second: 0.5, burst: 3 };
  const limited = await client.PUT("/tenants/{tenant}", { params, body: { ingest_limit, max_in_flight: 7 } });
  const tenant: Schemas["Tenant"] = present(limited.data);
  const unset = { rate_limit: null, control_limit: null, max_subscriptions: null, max_stored_bytes: null };
  assert.deepEqual(tenant, { tenant: "generated", max_in_flight: 7, ingest_limit, ...unset });

  const cleared = await client.PUT("/tenants/{tenant}", { params, body: { ingest_limit: null } });
  assert.deepEqual(present(cleared.data), { ...tenant, ingest_limit: null }, "what is absent stays");
  assert.deepEqual(present((await client.GET("/tenants/{tenant}", { params })).data), present(cleared.data));
});

test("a problem names the field at fault", async () => {
  const { error, response } = await client.POST("/subscriptions/", { body: { target_url: "ftp://example.com/" } });
  assert.equal(response.status, 422);
  assert.deepEqual(present(error).errors?.map((field) => field.pointer), ["/target_url"]);
});

/** A subscription to a receiver of its own; `receive` gives what that gets for an event. */
async function subscribe(t: TestContext, settings: Partial<Schemas["SubscriptionCreate"]>) {
  const receiver = await startReceiver();
  t.after(receiver.close);
  const created = await client.POST("/subscriptions/", { body: { target_url: receiver.url, ...settings } });
  const subscription = present(created.data);
  const receive = async (body: unknown): Promise<Received> => {
    const params = { path: { subscription_id: subscription.id } };
    const accepted = await client.POST("/ingest/{subscription_id}", { params, body });
    await untilSuccess(present(accepted.data).delivery_id);
    return present(receiver.received.at(-1));
  };
  return { subscription, receive };
}

async function rotate(id: string): Promise<string> {
  const { data } = await client.POST("/subscriptions/{id}/signing-secret/rotate", { params: { path: { id } } });
  return present(data).signing_secret;
}

/** As a receiver asks for them: without an API key. */
async function publicKeys(id: string): Promise<string[]> {
  const stranger = createClient<paths>({ baseUrl });
  const { data } = await stranger.GET("/.well-known/webhook-keys/{id}", { params: { path: { id } } });
  return present(data).keys.map((key) => key.public_key);
}

/** Whether one of the `v1a` signatures is right (docs/receiving.md). */
function verifies({ headers, body }: Received, publicKey: string | undefined): boolean {
  const raw = Buffer.from(present(publicKey).replace(/^whpk_/, ""), "base64");
  // Before the 32 bytes themselves stands what they are: Ed25519 (RFC 8410 §4).
  const spki = Buffer.concat([Buffer.from("302a300506032b6570032100", "hex"), raw]);
  const key = createPublicKey({ key: spki, format: "der", type: "spki" });
  const signed = Buffer.concat([Buffer.from(`${headers["webhook-id"]}.${headers["webhook-timestamp"]}.`), body]);
  const signatures = present(headers["webhook-signature"]).split(" ").filter((each) => each.startsWith("v1a,"));
  return signatures.some((each) => verify(null, signed, key, Buffer.from(each.slice("v1a,".length), "base64")));
}

async function untilSuccess(delivery_id: string): Promise<Schemas["DeliveryStatus"]> {
  const deadline = Date.now() + 10_000;
  for (;;) {
    const answer = await client.GET("/status/deliveries/{delivery_id}/status", { params: { path: { delivery_id } } });
    const status = present(answer.data);
    if (status.delivery.status === "success") return status;
    assert.ok(Date.now() < deadline, `still ${status.delivery.status} after 10 s`);
    await sleep(50);
  }
}

interface Received {
  headers: Record<string, string>;
  body: Buffer;
}

/** An endpoint that keeps what it is sent and answers 204. */
async function startReceiver() {
  const received: Received[] = [];
  const server = createServer(async (request, response) => {
    const headers = Object.entries(request.headers).map(([name, value]) => [name, String(value)]);
    received.push({ headers: Object.fromEntries(headers), body: await buffer(request) });
    response.writeHead(204).end();
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address() as AddressInfo;
  const close = () => {
    server.close();
    server.closeAllConnections();
  };
  return { url: `http://127.0.0.1:${port}/hook`, received, close };
}

function present<T>(value: T | undefined): T {
  assert.notEqual(value, undefined);
  return value as T;
}

function environment(name: string): string {
  return process.env[name] ?? assert.fail(`${name} is not set`);
}
