"""The six services through which other processes see and set the parameters of a node."""

from rosless.exceptions import ParameterNotDeclaredException, ParameterUninitializedException
from rosless.messages import get_message_class, get_service_class
from rosless.parameter import Parameter
from rosless.qos import qos_profile_parameters


class ParameterService:
    """Answers for one node. One unknown name empties the whole reply, as rclpy has it."""

    def __init__(self, node):
        self._node = node
        for name, callback in {
            'DescribeParameters': self._describe,
            'GetParameters': self._get,
            'GetParameterTypes': self._get_types,
            'ListParameters': self._list,
            'SetParameters': self._set,
            'SetParametersAtomically': self._set_atomically,
        }.items():
            # 'GetParameterTypes' is served as '~/get_parameter_types'
            service = ''.join(f'_{c.lower()}' if c.isupper() else c for c in name)[1:]
            node.create_service(
                get_service_class(f'rcl_interfaces/srv/{name}'),
                f'~/{service}',
                callback,
                qos_profile=qos_profile_parameters,
            )

    def _describe(self, request, response):
        try:
            response.descriptors = self._node.describe_parameters(request.names)
        except ParameterNotDeclaredException:
            response.descriptors = []
        return response

    def _get(self, request, response):
        try:
            found = self._node.get_parameters(request.names)
        except (ParameterNotDeclaredException, ParameterUninitializedException):
            found = []
        response.values = [parameter.get_parameter_value() for parameter in found]
        return response

    def _get_types(self, request, response):
        try:
            response.types = [self._node.get_parameter_type(n).value for n in request.names]
        except ParameterNotDeclaredException:
            response.types = []
        return response

    def _list(self, request, response):
        response.result = self._node.list_parameters(request.prefixes, request.depth)
        return response

    def _set(self, request, response):
        response.results = [self._set_all([message]) for message in request.parameters]
        return response

    def _set_atomically(self, request, response):
        response.result = self._set_all(request.parameters)
        return response

    def _set_all(self, messages):
        parameters = [Parameter.from_parameter_msg(message) for message in messages]
        try:
            return self._node.set_parameters_atomically(parameters)
        except ParameterNotDeclaredException as error:
            result = get_message_class('rcl_interfaces/msg/SetParametersResult')
            return result(successful=False, reason=str(error))
