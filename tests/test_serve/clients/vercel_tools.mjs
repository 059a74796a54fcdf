// https://ai-sdk.dev/docs/ai-sdk-core/tools-and-tool-calling and generating-structured-data
import { createOpenAICompatible } from '@ai-sdk/openai-compatible';
import { generateObject, generateText, jsonSchema, stepCountIs, streamText, tool } from 'ai';

const [base, model] = process.argv.slice(2);
const provider = createOpenAICompatible({
  name: 'provider-name',
  apiKey: process.env.OPENAI_API_KEY,
  baseURL: `${base}/v1`,
  supportsStructuredOutputs: true,
});
const schema = jsonSchema({ type: 'object', properties: { number: { type: 'number' } }, required: ['number'] });
const tools = { step: tool({ description: 'Do a step.', inputSchema: schema, execute: async ({ number }) => `step ${number} is done` }) };
const options = { model: provider(model), tools, prompt: 'Do all steps.', stopWhen: stepCountIs(30) };
const { text, steps } = await generateText(options);
console.log(text, steps.flatMap((step) => step.toolCalls).length);
const result = streamText(options);
let streamed = '';
for await (const part of result.textStream) streamed += part;
console.log(streamed, (await result.steps).flatMap((step) => step.toolCalls).map((call) => call.input.number).join(' '));
const { object } = await generateObject({
  model: provider(model),
  schema: jsonSchema({
    type: 'object',
    properties: { name: { type: 'string' }, ingredients: { type: 'array', items: { type: 'string' } } },
    required: ['name', 'ingredients'],
  }),
  prompt: 'Generate a lasagna recipe.',
});
console.log(object.name, object.ingredients.length);
