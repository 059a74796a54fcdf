// https://github.com/openai/openai-node: chat completions; OPENAI_BASE_URL says where.
import OpenAI from 'openai';

const client = new OpenAI();
const model = process.argv[3];
const completion = await client.chat.completions.create({
  model,
  messages: [
    { role: 'developer', content: 'Talk like a pirate.' },
    { role: 'user', content: 'Are semicolons optional in JavaScript?' },
  ],
});
console.log(completion.choices[0].message.content);
const stream = await client.chat.completions.create({
  model,
  messages: [{ role: 'user', content: 'Say this is a test' }],
  stream: true,
});
let text = '';
for await (const chunk of stream) text += chunk.choices[0]?.delta?.content ?? '';
console.log(text);
