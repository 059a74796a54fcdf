// https://github.com/openai/openai-node/blob/master/helpers.md: runTools
import OpenAI from 'openai';

const client = new OpenAI();
async function getCurrentLocation() {
  return 'Boston';
}
async function step(args) {
  return `step ${args.number} is done`;
}
const parse = JSON.parse;
const runner = client.chat.completions.runTools(
  {
    model: process.argv[3],
    messages: [{ role: 'user', content: 'Do all steps.' }],
    tools: [
      {
        type: 'function',
        function: {
          name: 'step',
          function: step,
          parse,
          parameters: { type: 'object', properties: { number: { type: 'number' } } },
        },
      },
      { type: 'function', function: { name: 'where', function: getCurrentLocation, parameters: { type: 'object', properties: {} } } },
    ],
  },
  { maxChatCompletions: 30 },
);
console.log(await runner.finalContent());
console.log(runner.messages.filter((message) => message.role === 'tool').length);
