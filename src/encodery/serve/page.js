"use strict";
// Shows the models of /info and the routes of /openapi.json, and sends the typed body. Answers are untrusted text, never markup.
const at = (id) => document.getElementById(id);
const EXAMPLES = {
  "/v1/embeddings": (m) => ({ model: m("embed"), input: ["A first text.", "Another one."] }),
  "/embed": () => ({ inputs: ["A first text."] }),
  "/embed_all": () => ({ inputs: "A text." }),
  "/embed_sparse": () => ({ inputs: "A text." }),
  "/similarity": () => ({ inputs: { source_sentence: "A cat sat down.", sentences: ["A cat is sitting.", "It rains."] } }),
  "/rerank": () => ({ query: "Who sat down?", texts: ["It rains.", "A cat sat down."], return_text: true }),
  "/v1/rerank": () => ({ query: "Who sat down?", documents: ["It rains.", "A cat sat down."], return_documents: true }),
  "/v2/rerank": () => ({ query: "Who sat down?", documents: ["It rains.", "A cat sat down."], top_n: 1 }),
  "/predict": () => ({ inputs: "A text." }),
  "/tokenize": () => ({ inputs: "A text." }),
  "/fill": () => ({ inputs: "A [MASK] text." }),
  "/tag": () => ({ inputs: "Ada Lovelace was born in London." }),
  "/answer": () => ({ question: "Who was born?", context: "Ada Lovelace was born in London." }),
  "/search": () => ({ query: "a text", top_k: 5 }),
};
let routes = {};
let info = { models: [] };

const headers = () => {
  const key = at("key").value.trim();
  return { "Content-Type": "application/json", ...(key ? { Authorization: `Bearer ${key}` } : {}) };
};
const modelFor = (operation) => (info.models.find((model) => operation in model.operations) || { id: "" }).id;

function row(cells, kind) {
  const line = document.createElement("tr");
  for (const cell of cells) line.append(Object.assign(document.createElement(kind), { textContent: cell }));
  return line;
}

function showModels() {
  const table = document.createElement("table");
  table.append(row(["model", "operation", "details"], "th"));
  for (const model of info.models) {
    for (const [operation, details] of Object.entries(model.operations)) {
      const shown = Object.entries(details).filter(([, value]) => value !== null && `${value}` && JSON.stringify(value) !== "{}");
      if (shown.length) table.append(row([model.id, details.task || operation, shown.map(([k, v]) => `${k} ${Array.isArray(v) ? v.join(", ") : typeof v === "object" ? JSON.stringify(v) : v}`).join(" · ")], "td"));
    }
  }
  at("models").replaceChildren(table);
}

function showRoute() {
  const path = at("route").value;
  at("about").textContent = (routes[path] || {}).description || "";
  at("body").value = JSON.stringify((EXAMPLES[path] || (() => ({})))(modelFor), null, 2);
  command();
}

function command() {
  const key = at("key").value.trim() ? " -H 'Authorization: Bearer …'" : "";
  const body = at("body").value.replaceAll("'", "'\\''");
  at("curl").textContent = `curl ${location.origin}${at("route").value} -H 'Content-Type: application/json'${key} -d '${body}'`;
}

// Long lists of numbers are shortened, with their length.
const short = (key, value) =>
  Array.isArray(value) && value.length > 12 && value.every((one) => typeof one === "number")
    ? [...value.slice(0, 8), `… ${value.length} numbers`]
    : value;

async function send() {
  at("send").disabled = true;
  at("took").className = "";
  try {
    const response = await fetch(at("route").value, { method: "POST", headers: headers(), body: at("body").value });
    const answer = await response.json();
    const head = (name) => response.headers.get(name);
    at("took").textContent = `${response.status} · ${head("x-total-time")} ms` +
      (head("x-compute-tokens") ? ` (tokenised ${head("x-tokenization-time")}, queued ${head("x-queue-time")}, run ${head("x-inference-time")}) · ${head("x-compute-tokens")} tokens, ${head("x-dropped-tokens")} dropped` : "");
    at("took").className = response.ok ? "" : "bad";
    at("answer").textContent = JSON.stringify(answer, short, 1);
  } catch (error) {
    at("took").className = "bad";
    at("took").textContent = `No answer: ${error.message}`;
  }
  at("send").disabled = false;
}

async function open() {
  try {
    const [response, api] = await Promise.all(["/info", "/openapi.json"].map((path) => fetch(path, { headers: headers() })));
    if (!response.ok) throw new Error((await response.json()).error.message);
    info = await response.json();
    const paths = (await api.json()).paths;
    routes = Object.fromEntries(Object.entries(paths).filter(([, of]) => of.post).map(([path, of]) => [path, of.post]));
    at("state").textContent = `version ${info.version}, models: ${info.models.length}`;
    at("state").className = "";
    showModels();
    at("served").hidden = at("try").hidden = false;
    at("route").replaceChildren(...Object.keys(routes).map((path) => new Option(path, path)));
    showRoute();
  } catch (error) {
    at("state").className = "bad";
    at("state").textContent = error.message;
  }
}

at("route").addEventListener("change", showRoute);
at("body").addEventListener("input", command);
at("key").addEventListener("change", open);
at("send").addEventListener("click", send);
open();
