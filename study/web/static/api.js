// What the page asks of the server. An answer is asked for again by its ETag, so a poll is cheap.

const kept = new Map();

export class Refused extends Error {}

async function problem(response) {
  try {
    const { detail } = await response.json();
    return typeof detail === "string" ? detail : `the server answered ${response.status}`;
  } catch {
    return `the server answered ${response.status}`;
  }
}

export function address(parts, query = {}) {
  const url = new URL(`api/${parts.map(encodeURIComponent).join("/")}`, document.baseURI.split("#")[0]);
  for (const [name, value] of Object.entries(query)) {
    for (const one of [value].flat()) url.searchParams.append(name, one);
  }
  return url;
}

export async function get(parts, query = {}) {
  const url = String(address(parts, query));
  const known = kept.get(url);
  const headers = known ? { "If-None-Match": known.tag } : {};
  const response = await fetch(url, { headers, cache: "no-store", credentials: "same-origin" });
  if (response.status === 304) return known.value;
  if (!response.ok) throw new Refused(await problem(response));
  const value = await response.json();
  kept.delete(url);
  kept.set(url, { tag: response.headers.get("ETag"), value });
  if (kept.size > 200) kept.delete(kept.keys().next().value);
  return value;
}

export async function post(parts, body) {
  const response = await fetch(address(parts), {
    method: "POST",
    credentials: "same-origin",
    headers: { "Content-Type": "application/json", "X-UDE-Study": "1" },
    body: JSON.stringify(body),
  });
  if (!response.ok) throw new Refused(await problem(response));
  return response.json();
}

export function noise(study, trial, small) {
  return String(address(["studies", study, "trials", trial, "noise.png"], small ? { small: "true" } : {}));
}
