// The view's address in the fragment: #/numbers/12?picture=p1&shared=1. It can be kept and shared; back and forward work.

function decoded(part) {
  try {
    return decodeURIComponent(part);
  } catch {
    return part; // an address that somebody has typed
  }
}

export function parse(hash) {
  const [path, query = ""] = hash.replace(/^#\/?/, "").split("?", 2);
  const parts = path.split("/").filter(Boolean).map(decoded);
  return { view: parts[0] ?? "", parts: parts.slice(1), query: Object.fromEntries(new URLSearchParams(query)) };
}

// An address as text. Entries that are null, undefined, false or "" are left out.
export function format(view, parts = [], query = {}) {
  const kept = Object.entries(query).filter(([, value]) => value !== null && value !== undefined && value !== "" && value !== false);
  const search = new URLSearchParams(kept.map(([key, value]) => [key, String(value)])).toString();
  const path = [view, ...parts].map((part) => encodeURIComponent(part).replaceAll("%2C", ",")).join("/");
  return `#/${path}${search ? `?${search}` : ""}`;
}

// Goes to an address; with `replace` without an entry in the history, for what follows a slider.
export function go(address, { replace = false } = {}) {
  if (address === location.hash) return;
  if (replace) {
    history.replaceState(null, "", address);
    window.dispatchEvent(new HashChangeEvent("hashchange"));
  } else {
    location.hash = address;
  }
}

// The same view with other entries in its query.
export function changed(address, query, parts = address.parts) {
  return format(address.view, parts, { ...address.query, ...query });
}
