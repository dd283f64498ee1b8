// A client made by openapi-typescript and openapi-fetch against a running server: what its types promise is
// what comes. Run by scripts/test-clients, which sets POSTHORN_URL and POSTHORN_API_KEY.

import assert from "node:assert/strict";
import { createServer } from "node:http";
import { once } from "node:events";
import type { AddressInfo } from "node:net";
import { text } from "node:stream/consumers";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import createClient from "openapi-fetch";
import type { components, paths } from "./schema.js";

type Schemas = components["schemas"];

const client = createClient<paths>({
  baseUrl: environment("POSTHORN_URL"),
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
  assert.deepEqual(receiver.bodies, [JSON.stringify(payload)]);

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

test("a tenant's limit is set and cleared", async () => {
  const params = { path: { tenant: "generated" } };
  const ingest_limit = { requests_per_second: 0.5, burst: 3 };
  const limited = await client.PUT("/tenants/{tenant}", { params, body: { ingest_limit, max_in_flight: 7 } });
  const tenant: Schemas["Tenant"] = present(limited.data);
  assert.deepEqual(tenant, { tenant: "generated", rate_limit: null, max_in_flight: 7, ingest_limit });

  const cleared = await client.PUT("/tenants/{tenant}", { params, body: { ingest_limit: null } });
  assert.deepEqual(present(cleared.data), { ...tenant, ingest_limit: null }, "what is absent stays");
  assert.deepEqual(present((await client.GET("/tenants/{tenant}", { params })).data), present(cleared.data));
});

test("a problem names the field at fault", async () => {
  const { error, response } = await client.POST("/subscriptions/", { body: { target_url: "ftp://example.com/" } });
  assert.equal(response.status, 422);
  assert.deepEqual(present(error).errors?.map((field) => field.pointer), ["/target_url"]);
});

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

/** An endpoint that keeps what it is sent and answers 204. */
async function startReceiver() {
  const bodies: string[] = [];
  const server = createServer(async (request, response) => {
    bodies.push(await text(request));
    response.writeHead(204).end();
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address() as AddressInfo;
  const close = () => {
    server.close();
    server.closeAllConnections();
  };
  return { url: `http://127.0.0.1:${port}/hook`, bodies, close };
}

function present<T>(value: T | undefined): T {
  assert.notEqual(value, undefined);
  return value as T;
}

function environment(name: string): string {
  return process.env[name] ?? assert.fail(`${name} is not set`);
}
