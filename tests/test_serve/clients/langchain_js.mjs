// https://js.langchain.com/docs/integrations/chat/openai
import { ChatOpenAI } from '@langchain/openai';

const [base, model] = process.argv.slice(2);
const llm = new ChatOpenAI({ model, temperature: 0, configuration: { baseURL: `${base}/v1` } });
const answer = await llm.invoke([
  { role: 'system', content: 'You are a helpful assistant that translates English to French.' },
  { role: 'user', content: 'I love programming.' },
]);
console.log(answer.content);
