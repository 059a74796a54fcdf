// Uses the types that openapi-typescript generated, over openapi-fetch; prints what it got as JSON.
//
//     node generated_client.js http://127.0.0.1:5000

import createClient from "openapi-fetch";
import type { components, paths } from "./api";

declare const process: { argv: string[] };

async function main(url: string) {
  const client = createClient<paths>({ baseUrl: url });
  const messages: components["schemas"]["Message"][] = [{ role: "user", content: "Hello" }];

  const chat = await client.POST("/v1/chat/completions", { body: { model: "m", messages } });
  if (chat.data?.object !== "chat.completion") throw new Error("no chat");

  const streamed = await client.POST("/v1/chat/completions", {
    body: { model: "m", messages, stream: true },
    parseAs: "text",
  });
  const deltas = [];
  for (const line of (streamed.data ?? "").split("\n")) {
    if (!line.startsWith("data: {")) continue;
    const chunk: components["schemas"]["ChatChunk"] = JSON.parse(line.slice(6));
    deltas.push(chunk.choices[0].delta.content);
  }

  const refusal = await client.POST("/v1/chat/completions", { body: { model: "nope", messages } });

  const transcription = await client.POST("/v1/audio/transcriptions", {
    body: { file: "", model: "m", language: "en", temperature: 0.5 },
    bodySerializer: ({ file: _, ...fields }) => {
      const form = new FormData();
      form.append("file", new Blob(["RIFF sound"], { type: "audio/wav" }), "a.wav");
      for (const [name, value] of Object.entries(fields)) form.append(name, String(value));
      return form;
    },
  });
  if (typeof transcription.data !== "object" || !("text" in transcription.data)) throw new Error("no transcription");

  const models = await client.GET("/v1/models");
  const memory = await client.GET("/admin/memory_status");
  const statuses = await client.GET("/admin/model_status");
  const cleaned = await client.POST("/admin/cleanup_temp");
  return {
    chat: chat.data.choices[0].message.content,
    chat_tokens: chat.data.usage.total_tokens,
    stream: deltas,
    refusal: refusal.error?.error.code,
    transcription: transcription.data.text,
    models: models.data?.data.map((model) => model.id),
    memory: memory.data?.pods[0].process_gb,
    state: statuses.data?.model_configs["m"].state,
    cleaned: cleaned.data?.cleaned_files,
  };
}

main(process.argv[2]).then((result) => console.log(JSON.stringify(result)));
