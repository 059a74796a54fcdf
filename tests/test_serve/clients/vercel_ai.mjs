// https://ai-sdk.dev/providers/openai-compatible-providers
import { createOpenAICompatible } from '@ai-sdk/openai-compatible';
import { generateText, streamText } from 'ai';

const [base, model] = process.argv.slice(2);
const provider = createOpenAICompatible({ name: 'provider-name', apiKey: process.env.OPENAI_API_KEY, baseURL: `${base}/v1` });
const { text, reasoningText } = await generateText({
  model: provider(model),
  prompt: 'Write a vegetarian lasagna recipe for 4 people.',
});
console.log(text, reasoningText ?? '');
const result = streamText({ model: provider(model), prompt: 'hi' });
let streamed = '';
for await (const part of result.textStream) streamed += part;
console.log(streamed);
