"use strict";

// Starts Swagger on the gateway's OpenAPI document. Ids exist only once the gateway has given them, so what the links of an
// operation name is copied from its answers into the examples: after a prediction, the example of its feedback is accepted.

const METHODS = ["get", "post"];

function valueAt(document, expression) {
  const [source, pointer] = expression.split("#/");
  if (source !== "$response.body") return undefined;
  return pointer.split("/").reduce((value, key) => value?.[key], document);
}

function operations(spec) {
  return Object.entries(spec.paths).flatMap(([path, item]) =>
    METHODS.filter((method) => item[method]).map((method) => ({ path, method, operation: item[method] })),
  );
}

function fillExamples(operation, link, answer) {
  for (const parameter of operation.parameters ?? []) {
    const value = valueAt(answer, link.parameters?.[parameter.name] ?? "");
    if (value !== undefined) parameter.example = value;
  }
  const examples = Object.values(operation.requestBody?.content ?? {}).flatMap((content) => Object.values(content.examples ?? {}));
  for (const [name, expression] of Object.entries(link.requestBody ?? {})) {
    const value = valueAt(answer, expression);
    if (value !== undefined) for (const example of examples) example.value[name] = value;
  }
}

function followLinks(spec, response) {
  const path = new URL(response.url, location.href).pathname;
  const found = operations(spec);
  const called = found.find(({ path: end, operation }) => path.endsWith(end) && operation.responses[response.status]?.links);
  if (!called) return false;
  for (const link of Object.values(called.operation.responses[response.status].links)) {
    const target = found.find(({ operation }) => operation.operationId === link.operationId);
    if (target) fillExamples(target.operation, link, response.body);
  }
  return true;
}

function followScheme(isDark) {
  document.documentElement.classList.toggle("dark-mode", isDark);
}

const darkScheme = matchMedia("(prefers-color-scheme: dark)");
followScheme(darkScheme.matches);
darkScheme.addEventListener("change", (event) => followScheme(event.matches)); // at dusk, while the page is open

window.ui = SwaggerUIBundle({
  url: "openapi.json",
  dom_id: "#swagger",
  validatorUrl: null,
  tryItOutEnabled: true,
  defaultModelsExpandDepth: -1,
  responseInterceptor: (response) => {
    const spec = window.ui?.specSelectors.specJson().toJS();
    if (spec?.paths && followLinks(spec, response)) window.ui.specActions.updateJsonSpec(spec);
    return response;
  },
});
