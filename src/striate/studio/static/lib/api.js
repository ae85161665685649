// Calls of the studio's server. Every call carries the token of the page's address, and the tab's own name.

const KEY = "striate-token";
const TAB = crypto.randomUUID();

function findToken() {
  const given = new URLSearchParams(location.search).get("token");
  try {
    if (given) sessionStorage.setItem(KEY, given);
    return given ?? sessionStorage.getItem(KEY) ?? "";
  } catch {
    return given ?? "";
  }
}

const token = findToken();

export const tab = TAB;
export const GONE = "The studio's server doesn't answer; start it again, and open the address that it prints.";

// What went wrong, as the line that the page shows.
export class ApiError extends Error {
  constructor(line, status) {
    super(line);
    this.status = status;
  }
}

export function url(path, params = {}) {
  const kept = Object.entries(params).filter(([, value]) => value !== null && value !== undefined && value !== "");
  const search = new URLSearchParams(kept.map(([key, value]) => [key, String(value)])).toString();
  return `/api/${path}${search ? `?${search}` : ""}`;
}

async function call(path, { params, signal, ...options } = {}) {
  const headers = { "X-Striate-Token": token, "X-Striate-Tab": TAB, ...(options.headers ?? {}) };
  let response;
  try {
    response = await fetch(url(path, params), { ...options, headers, signal, cache: "no-store" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError(GONE, 0);
  }
  if (response.status === 202) { // the network isn't there yet
    window.dispatchEvent(new CustomEvent("striate-starting", { detail: (await response.json()).starting }));
    return call(path, { params, signal, ...options });
  }
  if (!response.ok) {
    let line = `the server answered with ${response.status}`;
    try {
      line = (await response.json()).error ?? line;
    } catch {
      // no line came along
    }
    throw new ApiError(line, response.status);
  }
  return response;
}

// A JSON answer.
export async function getJson(path, params, { signal } = {}) {
  return (await call(path, { params, signal })).json();
}

// A binary answer: {header, data}, data a Float32Array that header.shape describes.
export async function getNumbers(path, params, { signal } = {}) {
  const buffer = await (await call(path, { params, signal })).arrayBuffer();
  const length = new DataView(buffer).getUint32(0, true);
  const header = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 4, length)));
  return { header, data: new Float32Array(buffer, 4 + length) };
}

// The answer's bytes, for pictures.
export async function getBlob(path, params, { signal } = {}) {
  return (await call(path, { params, signal })).blob();
}

// Sends a JSON object and gives the JSON that comes back.
export async function postJson(path, body = {}, { params, signal } = {}) {
  const options = { method: "POST", body: JSON.stringify(body), headers: { "Content-Type": "application/json" } };
  return (await call(path, { ...options, params, signal })).json();
}

// Sends a file's bytes.
export async function postBytes(path, bytes, { params, signal } = {}) {
  const options = { method: "POST", body: bytes, headers: { "Content-Type": "application/octet-stream" } };
  return (await call(path, { ...options, params, signal })).json();
}

// `options` may have `keepalive`, for what is sent while the page goes.
export async function remove(path, params, options = {}) {
  return (await call(path, { ...options, method: "DELETE", params })).json();
}
