// Chats that are kept in this browser alone: their texts, bounded; files are not kept.

import { BASE } from "./api.js";

let stored = "";

/** Whose chats they are: users of one browser don't see each other's, nor those of another server behind one name. */
export function setUser(name) {
  stored = `ams-chats ${BASE.pathname} ${name}`;
}

const MOST_CHATS = 50;
const MOST_CHARACTERS = 1_500_000;

export function chats() {
  try {
    const found = JSON.parse(localStorage.getItem(stored) ?? "[]");
    return Array.isArray(found) ? found.filter((chat) => Array.isArray(chat?.messages)) : [];
  } catch {
    return [];
  }
}

/** Keep a chat {id, model, title, time, messages}; older ones make way for it. */
export function keep(chat) {
  const kept = [chat, ...chats().filter((other) => other.id !== chat.id)].slice(0, MOST_CHATS);
  while (kept.length > 1 && JSON.stringify(kept).length > MOST_CHARACTERS) kept.pop();
  for (; kept.length; kept.pop()) {
    try {
      localStorage.setItem(stored, JSON.stringify(kept));
      return;
    } catch { /* the browser has less room: with one chat less again */ }
  }
}

export function remove(id) {
  const kept = chats().filter((chat) => chat.id !== id);
  try { localStorage.setItem(stored, JSON.stringify(kept)); } catch { /* storage is off */ }
}

export function clear() {
  try { localStorage.removeItem(stored); } catch { /* storage is off */ }
}
