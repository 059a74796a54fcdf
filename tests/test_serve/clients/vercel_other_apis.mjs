// https://ai-sdk.dev/providers: OpenAI's provider, which speaks responses, and Anthropic's; a text, and a loop of tools.
import { createAnthropic } from "@ai-sdk/anthropic";
import { createOpenAI } from "@ai-sdk/openai";
import { generateText, jsonSchema, stepCountIs, streamText, tool } from "ai";

const [base, name] = process.argv.slice(2);
const step = (seen) =>
  tool({
    description: "Takes one step.",
    inputSchema: jsonSchema({
      type: "object", properties: { number: { type: "integer" } }, required: ["number"], additionalProperties: false,
    }),
    execute: async ({ number }) => {
      seen.push(number);
      return `did ${number}`;
    },
  });
for (const provider of [createOpenAI({ baseURL: `${base}/v1` }), createAnthropic({ baseURL: `${base}/v1` })]) {
  const seen = [];
  const options = {
    model: provider(name), prompt: "Go.", temperature: 0, maxOutputTokens: 500, maxRetries: 0,
    ...(process.env.WITH_TOOLS ? { tools: { step: step(seen) }, stopWhen: stepCountIs(30) } : {}),
  };
  console.log((await generateText(options)).text, seen.length);
  seen.length = 0;
  let text = "";
  for await (const piece of streamText({ ...options, onError: ({ error }) => { throw error; } }).textStream) text += piece;
  console.log(text, seen.length);
}
