// An echo server with Node's ws.
import { readFileSync } from "node:fs";
import { createServer } from "node:http";
import { createServer as createSecure } from "node:https";
import { createRequire } from "node:module";

const { WebSocketServer } = createRequire(process.env.BENCH_NODE_MODULES + "/")("ws");
const [port, mode] = process.argv.slice(2);
const pem = mode === "tls" ? readFileSync(process.env.BENCH_CERTIFICATE) : null;
const server = pem ? createSecure({ cert: pem, key: pem }) : createServer();
const wss = new WebSocketServer({ server, perMessageDeflate: mode === "deflate" ? { threshold: 0 } : false, maxPayload: 16 << 20 });
const everybody = new Set();

wss.on("connection", (ws, request) => {
  ws.on("error", () => {});
  if (request.url === "/broadcast") {
    everybody.add(ws);
    ws.on("close", () => everybody.delete(ws));
    ws.on("message", (data, binary) => {
      for (const other of everybody) other.send(data, { binary });
    });
  } else {
    ws.on("message", (data, binary) => ws.send(data, { binary }));
  }
});
server.listen({ port: Number(port), host: "127.0.0.1", backlog: 4096 });
